package modbustest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Line returns a serial line that the kernel makes (pty(7)): the open far end,
// and the path of the port at the near end. It goes with the test. Where there
// are no pseudo terminals the test is skipped, and under CI=true it fails.
func Line(t *testing.T) (far *os.File, port string) {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no pseudo terminals here: ", err)
		}
		t.Skip("no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { far.Close() })
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failure error
	if err := raw.Control(func(fd uintptr) {
		if failure = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failure == nil {
			n, failure = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || failure != nil {
		t.Fatal(err, failure)
	}
	port = fmt.Sprintf("/dev/pts/%d", n)
	near, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0) // while it is open, the far end does not end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return far, port
}
