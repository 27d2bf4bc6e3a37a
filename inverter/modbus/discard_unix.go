//go:build unix

package modbus

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// discardRaw drops what lies in the socket's buffer. It costs one system call
// when there is nothing.
func discardRaw(_ net.Conn, raw syscall.RawConn) (dropped int, err error) {
	var b [512]byte
	for dropped < maxDiscard {
		var n int
		var failure error
		if err := raw.Read(func(fd uintptr) bool {
			n, failure = syscall.Read(int(fd), b[:])
			return true // whatever came of it: do not wait for more
		}); err != nil {
			return dropped, err
		}
		switch {
		case errors.Is(failure, syscall.EINTR):
			continue
		case errors.Is(failure, syscall.EAGAIN):
			return dropped, nil
		case failure != nil:
			return dropped, failure
		case n == 0:
			return dropped, io.EOF
		}
		dropped += n
	}
	return dropped, errChatter
}
