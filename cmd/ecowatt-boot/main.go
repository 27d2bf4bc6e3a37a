// Command ecowatt-boot is the launcher of a gateway: it starts the agent of the
// slot in force and keeps it running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"ecowatt"
	"ecowatt/boot/launch"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `ecowatt-boot starts the agent of a gateway and keeps it running.

Usage:
  ecowatt-boot --dir DIR

DIR holds slots/a/ecowatt-agent, slots/b/ecowatt-agent and boot.json, which
names the slot in force (without it: a). The agent runs as
"ecowatt-agent run --dir DIR". SIGTERM stops both.

ECOWATT_TRIAL_TIME is for tests: how long an image on trial may take to be
confirmed, instead of an hour.

Exit status: 0 stopped as asked, 1 failed, 2 wrong usage.
`

// trialVariable is the environment variable that replaces boot.TrialTime.
const trialVariable = "ECOWATT_TRIAL_TIME"

// trialTime is what trialVariable says; 0 for nothing.
func trialTime(getenv func(string) string) (time.Duration, error) {
	text := getenv(trialVariable)
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s: %.40q is not a time such as 1h", trialVariable, text)
	}
	return d, nil
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("ecowatt-boot", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dir := flags.String("dir", "", "")
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	trial, wrong := trialTime(getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
	case *version:
		fmt.Fprintln(stdout, "ecowatt-boot", ecowatt.Version)
		return 0
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *dir == "":
		err = errors.New("--dir is missing: name the gateway's folder")
	default:
		err = wrong
	}
	if err != nil {
		fmt.Fprintf(stderr, "ecowatt-boot: %v\nTry 'ecowatt-boot --help'.\n", err)
		return 2
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	if err := launch.Run(ctx, launch.Options{Dir: *dir, Stdout: stdout, Stderr: stderr, Logger: logger, TrialTime: trial}); err != nil {
		fmt.Fprintln(stderr, "ecowatt-boot:", err)
		return 1
	}
	return 0
}
