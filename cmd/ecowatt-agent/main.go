// Command ecowatt-agent is the program of a gateway: it samples inverters and
// sends what it reads, sealed, to the cloud.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ecowatt"
	"ecowatt/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	if code == exitRestart {
		err := syscall.Exec(ownProgram, os.Args, os.Environ()) // returns only if it fails
		fmt.Fprintln(os.Stderr, "ecowatt-agent: starting again:", err)
		code = exitFailed
	}
	os.Exit(code)
}

// ownProgram is the file of the program that runs, proc(5).
const ownProgram = "/proc/self/exe"

// credentialsVariable is the environment variable in which systemd names the folder of a
// service's credentials (systemd.exec(5)).
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// Environment variables of the launcher: which file descriptor takes heartbeats
// (launch.HeartbeatVariable), and for how long an image on trial has to do well
// before it is confirmed, 5 minutes where that is not said.
const (
	heartbeatVariable = "ECOWATT_HEARTBEAT"
	stableVariable    = "ECOWATT_TRIAL_STABLE"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2

	exitRestart = -1 // never returned to the system: the program begins anew
)

// What keeps the program below 16 MiB resident: the heap is collected early,
// and whatever it takes to stay below the limit.
const (
	gcPercent   = 40
	memoryLimit = 12 << 20 // bytes, of all that the runtime has
)

const usage = `ecowatt-agent samples inverters and sends what it reads, sealed, to the cloud.

Usage:
  ecowatt-agent enroll FILE --dir DIR        make DIR a device's; FILE is of 'ecowatt device add'
  ecowatt-agent run --dir DIR [--config FILE]
  ecowatt-agent status --dir DIR [--json]
  ecowatt-agent version

More about a command: ecowatt-agent COMMAND --help

Exit status: 0 done, or stopped as asked, 1 failed, 2 wrong usage.
`

const enrollUsage = `Import an enrolment file: make DIR the folder of the device it is for.

Usage:
  ecowatt-agent enroll FILE --dir DIR

FILE comes from 'ecowatt device add --out FILE', by a way that nobody reads: it
holds the device's key. It must have the mode 0600, and is removed when what was
in it is safe in DIR. Where systemd gives the credential ecowatt-storage-key, the
key is sealed with it; else 'run' does so when it is given.
`

const runUsage = `Sample the inverters and talk to the cloud, until SIGTERM.

Usage:
  ecowatt-agent run --dir DIR [--config FILE]

DIR holds the identity, the settings (agent.yaml, or FILE) and the buffer. The
log goes to stderr.

As a systemd service with LoadCredentialEncrypted=ecowatt-storage-key the agent
seals the keys in DIR with that credential, and needs it from then on.
`

const statusUsage = `Ask the agent that runs in DIR how it is.

Usage:
  ecowatt-agent status --dir DIR [--json]
`

// usageError is a command line that cannot be meant.
type usageError struct{ problem string }

func (e usageError) Error() string { return e.problem }

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	topic, err := dispatch(ctx, args, getenv, stdout, stderr)
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, errHelped):
		return exitDone
	case errors.Is(err, agent.ErrRestart):
		return exitRestart
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "ecowatt-agent: %s\nTry '%s --help'.\n", oneLine(err.Error()), topic)
		return exitUsage
	}
	fmt.Fprintf(stderr, "ecowatt-agent: %s\n", oneLine(err.Error()))
	return exitFailed
}

// dispatch runs the command that args name; topic is what its help is asked with.
func dispatch(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (topic string, err error) {
	topic = "ecowatt-agent"
	if len(args) == 0 {
		return topic, usageError{"a command is missing: enroll, run, status or version"}
	}
	name, rest := args[0], args[1:]
	switch name {
	case "enroll":
		return topic + " enroll", enroll(rest, getenv(credentialsVariable), stdout)
	case "run":
		return topic + " run", runAgent(ctx, rest, getenv, stdout, stderr)
	case "status":
		return topic + " status", status(ctx, rest, stdout)
	case "version", "--version":
		_, err = fmt.Fprintln(stdout, "ecowatt-agent", ecowatt.Version)
	case "help", "--help", "-h":
		_, err = io.WriteString(stdout, usage)
	default:
		err = usageError{fmt.Sprintf("unknown command %q: there are enroll, run, status and version", name)}
	}
	return topic, err
}

// command is the command line of one command.
type command struct {
	flags *flag.FlagSet
	dir   *string
	help  string
}

func newCommand(help string) command {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return command{flags: flags, dir: flags.String("dir", "", ""), help: help}
}

// errHelped says that help was asked for and given.
var errHelped = errors.New("help was given")

// parse returns the arguments that go by the names; flags may stand before,
// between and after them.
func (c command) parse(args []string, stdout io.Writer, names ...string) ([]string, error) {
	var given []string
	for {
		err := c.flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			if _, err := io.WriteString(stdout, c.help); err != nil {
				return nil, err
			}
			return nil, errHelped
		}
		if err != nil {
			return nil, usageError{err.Error()}
		}
		if c.flags.NArg() == 0 {
			break
		}
		given, args = append(given, c.flags.Arg(0)), c.flags.Args()[1:]
	}
	switch {
	case len(given) < len(names):
		return nil, usageError{names[len(given)] + " is missing"}
	case len(given) > len(names):
		return nil, usageError{fmt.Sprintf("unexpected argument %q", given[len(names)])}
	case *c.dir == "":
		return nil, usageError{"--dir is missing: name the gateway's folder"}
	}
	return given, nil
}

func enroll(args []string, credentials string, stdout io.Writer) error {
	c := newCommand(enrollUsage)
	given, err := c.parse(args, stdout, "FILE")
	if err != nil {
		return err
	}
	device, err := agent.Enroll(*c.dir, given[0], credentials)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s is the folder of %s now; %s is removed.\n", *c.dir, device, given[0])
	return err
}

func runAgent(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	c := newCommand(runUsage)
	config := c.flags.String("config", "", "")
	if _, err := c.parse(args, stdout); err != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	launch, err := launched(getenv)
	if err != nil {
		return err
	}
	return agent.Run(ctx, agent.Options{Dir: *c.dir, Config: *config, Log: stderr, Credentials: getenv(credentialsVariable), Launch: launch})
}

// launched is how the launcher has started this program, as its environment says.
func launched(getenv func(string) string) (agent.Launch, error) {
	var l agent.Launch
	if text := getenv(heartbeatVariable); text != "" {
		fd, err := strconv.Atoi(text)
		if err != nil || fd <= 2 {
			return l, fmt.Errorf("%s: %.40q is not a file descriptor of the launcher", heartbeatVariable, text)
		}
		l.Beats = pipe(fd)
	}
	if text := getenv(stableVariable); text != "" {
		var err error
		if l.Stable, err = time.ParseDuration(text); err != nil || l.Stable <= 0 {
			return l, fmt.Errorf("%s: %.40q is not a time such as 5m", stableVariable, text)
		}
	}
	return l, nil
}

// pipe is an open file descriptor to write to. It stays open when the program begins
// anew, which goes on with it.
type pipe int

func (p pipe) Write(b []byte) (int, error) { return syscall.Write(int(p), b) }

func status(ctx context.Context, args []string, stdout io.Writer) error {
	c := newCommand(statusUsage)
	asJSON := c.flags.Bool("json", false, "")
	if _, err := c.parse(args, stdout); err != nil {
		return err
	}
	s, err := agent.ReadStatus(ctx, *c.dir)
	if err != nil {
		return err
	}
	if !*asJSON {
		return printStatus(stdout, s)
	}
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	return e.Encode(s)
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
