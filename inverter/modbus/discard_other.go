//go:build !unix

package modbus

import (
	"net"
	"syscall"
	"time"
)

// discardRaw drops what lies in the socket's buffer.
func discardRaw(c net.Conn, _ syscall.RawConn) (int, error) {
	return discardFor(c, time.Millisecond)
}
