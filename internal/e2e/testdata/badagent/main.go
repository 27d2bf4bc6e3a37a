// Command badagent is an agent with something wrong with it, for the tests of
// updates: what it is is said when it is built, with -ldflags "-X main.fault=…".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"ecowatt/agent"
)

// fault is one of those that main knows.
var fault string

// nobody is an address that nobody listens on.
const nobody = "127.0.0.1:1"

func main() {
	// It is started as "ecowatt-agent run --dir DIR".
	dir := os.Args[len(os.Args)-1]
	var err error
	switch fault {
	case "crashes":
		panic("there is no sun today")
	case "deaf":
		err = run(dir, `(?m)^cloud_url: .*$`, "cloud_url: http://"+nobody)
	case "sick":
		err = run(dir, `modbus-tcp://[0-9.:]+`, "modbus-tcp://"+nobody)
	default:
		err = errors.New("it was built without a fault")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "badagent:", err)
		os.Exit(1)
	}
}

// run runs the agent, but for what it misunderstands in its settings.
func run(dir, pattern, as string) error {
	text, err := os.ReadFile(filepath.Join(dir, agent.SettingsFile))
	if err != nil {
		return err
	}
	misread := filepath.Join(dir, "misread.yaml")
	if err := os.WriteFile(misread, regexp.MustCompile(pattern).ReplaceAll(text, []byte(as)), 0o600); err != nil {
		return err
	}
	stable, err := time.ParseDuration(os.Getenv("ECOWATT_TRIAL_STABLE"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return agent.Run(ctx, agent.Options{
		Dir: dir, Config: misread, Log: os.Stderr, Launch: agent.Launch{Beats: os.NewFile(3, "heartbeat"), Stable: stable},
	})
}
