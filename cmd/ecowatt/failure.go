package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitCode is what the program says to whoever started it.
type exitCode int

// The closed set of exit codes, as docs/cli.md promises them.
const (
	exitDone     exitCode = 0
	exitFailed   exitCode = 1
	exitUsage    exitCode = 2 // wrong usage: the command line itself
	exitRefused  exitCode = 3 // authentication or permission
	exitNotFound exitCode = 4
)

// failure is an error that decides the exit code, and may say what to do.
// Every other error of a command is exitFailed.
type failure struct {
	code exitCode
	err  error
	hint string // one line for people; may be empty
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usagef is the error of a command line that cannot be meant.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// hinted adds one line of advice to err.
func hinted(err error, hint string) error {
	return &failure{code: codeOf(err), err: err, hint: hint}
}

func codeOf(err error) exitCode {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return exitFailed
}

// report tells of err on stderr, in one line and perhaps a hint, and returns
// the exit code.
func (a *app) report(used *cobra.Command, err error) exitCode {
	code := codeOf(err)
	text := oneLine(err.Error())
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	fmt.Fprintf(a.stderr, "ecowatt: %s\n", text)
	var f *failure
	switch {
	case errors.As(err, &f) && f.hint != "":
		fmt.Fprintln(a.stderr, oneLine(f.hint))
	case code == exitUsage:
		fmt.Fprintf(a.stderr, "Try '%s --help'.\n", used.CommandPath())
	}
	return code
}

// oneLine makes text that others had a hand in safe for a terminal: control
// characters are shown, not obeyed.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return '\ufffd'
		}
		return r
	}, strings.TrimSpace(text))
}
