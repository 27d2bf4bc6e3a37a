package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// askSecret asks for a line on the terminal of the process, whatever its standard
// input is, and does not show what is typed. The terminal is as before
// afterwards, also when ctx ends.
func askSecret(ctx context.Context, question string) (answer string, err error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("there is no terminal: %w", err)
	}
	defer tty.Close()
	show, err := hide(tty)
	if err != nil {
		return "", fmt.Errorf("there is no terminal: %w", err)
	}
	defer func() {
		_, printing := io.WriteString(tty, "\n")
		err = errors.Join(err, show(), printing)
	}()
	stop := context.AfterFunc(ctx, func() { _ = tty.SetReadDeadline(time.Unix(1, 0)) }) // the read below tells
	defer stop()
	if _, err := io.WriteString(tty, question); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(io.LimitReader(tty, maxKeyFile)).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", fmt.Errorf("reading a line: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// hide makes a terminal not show what is typed, until show is called.
func hide(tty *os.File) (show func() error, err error) {
	before, err := terminal(tty, nil)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	if _, err := terminal(tty, &quiet); err != nil {
		return nil, err
	}
	return func() error {
		_, err := terminal(tty, before)
		return err
	}, nil
}

// terminal returns the settings of a terminal, or sets them to what is given,
// after what was written and without what was typed before.
func terminal(tty *os.File, set *unix.Termios) (got *unix.Termios, err error) {
	raw, err := tty.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlling := raw.Control(func(fd uintptr) {
		if set != nil {
			err = unix.IoctlSetTermios(int(fd), unix.TCSETSF, set)
		} else {
			got, err = unix.IoctlGetTermios(int(fd), unix.TCGETS)
		}
	})
	return got, errors.Join(controlling, err)
}
