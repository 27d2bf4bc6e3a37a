package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// live is a line on a person's terminal that says how far long work is. Programs
// are told nothing.
type live struct {
	w     io.Writer // nil where nobody looks
	width int
	shown time.Time
}

// liveEach is how often a line changes at most.
const liveEach = 100 * time.Millisecond

// newLive begins a line on w, where that is a terminal.
func newLive(w io.Writer) *live {
	f, ok := w.(*os.File)
	if !ok {
		return &live{}
	}
	size, err := windowOf(f)
	if err != nil {
		return &live{}
	}
	return &live{w: w, width: max(int(size.Col), 20)}
}

// windowOf is the size of a terminal; an error where f is none.
func windowOf(f *os.File) (size *unix.Winsize, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if controlling := raw.Control(func(fd uintptr) { size, err = unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ) }); controlling != nil {
		return nil, controlling
	}
	return size, err
}

// seen reports whether somebody looks.
func (l *live) seen() bool { return l.w != nil }

// show shows a line in place of the one before, but no more often than an eye can
// follow.
func (l *live) show(line string) {
	if now := time.Now(); l.seen() && now.Sub(l.shown) >= liveEach {
		l.shown = now
		fmt.Fprintf(l.w, "\r%s\x1b[K", cut(oneLine(line), l.width-1))
	}
}

// clear takes the line away.
func (l *live) clear() {
	if l.seen() {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
	l.shown = time.Time{}
}

// cut is a text in at most so many characters.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

// bar draws how much of all is done, and how much of that is bad.
func bar(done, bad, all, width int) string {
	if all <= 0 {
		return "[" + strings.Repeat("·", width) + "]"
	}
	good := (done - bad) * width / all
	failed := 0
	if bad > 0 {
		failed = max(bad*width/all, 1)
	}
	good = min(good, width-failed)
	return "[" + strings.Repeat("█", good) + strings.Repeat("×", failed) + strings.Repeat("·", width-good-failed) + "]"
}

// sizeText says how many bytes there are, in the largest unit of which there is one.
func sizeText(bytes uint64) string {
	switch n := float64(bytes); {
	case bytes < 1000:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1e6:
		return fmt.Sprintf("%.1f kB", n/1e3)
	default:
		return fmt.Sprintf("%.1f MB", n/1e6)
	}
}
