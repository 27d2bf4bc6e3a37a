// Command ecowatt is for people and servers: it serves the cloud, simulates
// inverters, runs a demonstration, and is the operator's command line.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Getenv, stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	os.Exit(code)
}

// stdio is what a program talks through: out is the answer, err the talk.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// app is what every command is given of the world. A command is made by a
// method newXCommand of its own file, which the table in root.go lists.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	running bool // a command's own code was reached: what fails now is no wrong usage
}

// run is the whole program: it runs the command that args name until it ends
// or ctx does, and returns the exit code. A command that was asked to stop by
// ctx, and did, returns nil.
func run(ctx context.Context, args []string, getenv func(string) string, streams stdio) int {
	a := &app{stdin: streams.in, stdout: streams.out, stderr: streams.err, getenv: getenv}
	root := a.newRootCommand()
	root.SetArgs(args)
	used, err := root.ExecuteContextC(ctx)
	if err == nil {
		return int(exitDone)
	}
	if !a.running {
		err = &failure{code: exitUsage, err: err}
	}
	return int(a.report(used, err))
}
