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

func main() { os.Exit(process(passphraseWork)) }

// process is the whole program in a process of its own. It returns the exit code.
// work is app.work.
func process(work int) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, work: work}
	return a.run(ctx, os.Args[1:])
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
	work           int // log2 of the work to try a passphrase (scrypt's N)

	running bool // a command's own code was reached: what fails now is no wrong usage
}

// run is the whole program: it runs the command that args name until it ends
// or ctx does, and returns the exit code. A command that was asked to stop by
// ctx, and did, returns nil.
func run(ctx context.Context, args []string, getenv func(string) string, streams stdio) int {
	a := &app{stdin: streams.in, stdout: streams.out, stderr: streams.err, getenv: getenv, work: passphraseWork}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
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
