package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ecowatt"
)

// StatusSocket is the name of the socket in the gateway's folder on which a
// running agent tells how it is: a connection gets one JSON object and is
// closed. Only the agent's own user may connect.
const StatusSocket = "agent.sock"

// never is the age of what has not happened yet, in s.
const never = -1

// maxStatusSize bounds what is read of a status, in bytes.
const maxStatusSize = 1 << 20

// ErrNotRunning says that no agent runs in a folder.
var ErrNotRunning = errors.New("no agent is running here")

// Status is how an agent is at one moment.
type Status struct {
	Version   string           `json:"version"`
	Device    string           `json:"device"`
	Cloud     string           `json:"cloud"`
	PID       int              `json:"pid"`
	Clock     ClockStatus      `json:"clock"`
	Inverters []InverterStatus `json:"inverters"`
	Buffer    BufferStatus     `json:"buffer"`
	Uplink    UplinkStatus     `json:"uplink"`
	Config    ConfigStatus     `json:"configuration"`
	Leases    []LeaseStatus    `json:"leases"` // power limits that are kept
}

// ClockStatus is what the agent knows of the time.
type ClockStatus struct {
	Known         bool  `json:"known"`
	UncertaintyMs int64 `json:"uncertainty_ms"`
}

// InverterStatus is how one inverter answers. Ages are in seconds, -1 for never.
type InverterStatus struct {
	Name      string  `json:"name"`
	State     string  `json:"state"` // "starting", "answering" or "away"
	SampleAge float64 `json:"sample_age_s"`
	Failures  int     `json:"failures"`         // in a row
	Frozen    bool    `json:"frozen,omitempty"` // what is read does not change, though it should
	Error     string  `json:"error,omitempty"`
}

// BufferStatus is what waits on the disk.
type BufferStatus struct {
	Samples  int    `json:"samples"`  // not yet in a message
	Messages int    `json:"messages"` // not yet settled
	Bytes    int64  `json:"bytes"`
	Dropped  uint64 `json:"dropped"` // samples given up since the start, for lack of room
	Thinned  uint64 `json:"thinned"` // samples of which only windows were kept since the start, for lack of room
	Failing  bool   `json:"failing"` // the last write failed
}

// UplinkStatus is how the exchange with the cloud goes. Ages are in seconds,
// -1 for never.
type UplinkStatus struct {
	State       string  `json:"state"`
	ExchangeAge float64 `json:"exchange_age_s"` // since the last accepted exchange
	NextIn      float64 `json:"next_in_s"`      // until the next attempt
	Failures    int     `json:"failures"`       // in a row
	Error       string  `json:"error,omitempty"`
}

// viaFolder opens dir and calls use with a short path of the socket in it: the
// address of a Unix socket holds 107 bytes (unix(7)), a folder's path more.
func viaFolder(dir string, use func(address string) error) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return use(filepath.Join("/proc/self/fd", fmt.Sprint(folder.Fd()), StatusSocket))
}

// acceptPause is the pause after a connection could not be accepted: for lack
// of file descriptors, say.
const acceptPause = time.Second

// serveStatus answers on the socket until ctx ends.
func serveStatus(ctx context.Context, dir string, status func() Status, logger *slog.Logger) error {
	l, err := listenStatus(dir)
	if err != nil {
		return fmt.Errorf("opening the status socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for ctx.Err() == nil {
		c, err := l.Accept()
		switch {
		case err == nil:
			tellStatus(c, status(), logger)
		case ctx.Err() == nil:
			logger.Warn("accepting a connection to the status socket", "error", err)
			sleep(ctx, acceptPause)
		}
	}
	return viaFolder(dir, removeSocket)
}

// listenStatus opens the socket in place of one that a killed agent left.
func listenStatus(dir string) (net.Listener, error) {
	var l *net.UnixListener
	err := viaFolder(dir, func(address string) (err error) {
		if err := removeSocket(address); err != nil {
			return err
		}
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // the short path is gone by then
		return os.Chmod(address, 0o600)
	})
	return l, err
}

func removeSocket(address string) error {
	if err := os.Remove(address); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// tellStatus writes the status to one connection, which has a second for it.
func tellStatus(c net.Conn, s Status, logger *slog.Logger) {
	defer c.Close()
	err := c.SetDeadline(time.Now().Add(time.Second))
	if err == nil {
		err = json.NewEncoder(c).Encode(s)
	}
	if err != nil {
		logger.Debug("telling the status", "error", err)
	}
}

// status tells how the device is now.
func (d *device) status() Status {
	now := d.now()
	clock, line := d.uplink.Clock(), d.uplink.Status()
	stats, failing := d.queue.stats()
	_, uncertainty, known := clock.Offset(now)
	s := Status{
		Version: ecowatt.Version, Device: string(d.identity.Device), Cloud: d.settings.CloudURL, PID: os.Getpid(),
		Clock:  ClockStatus{Known: known, UncertaintyMs: uncertainty.Milliseconds()},
		Buffer: BufferStatus{Samples: stats.Samples, Messages: stats.Messages, Bytes: stats.Bytes, Dropped: stats.Dropped, Thinned: stats.Thinned, Failing: failing},
		Uplink: UplinkStatus{
			State: line.State.String(), ExchangeAge: never, NextIn: max(line.Next-now, 0).Seconds(), Failures: line.Failures,
		},
	}
	if c := d.inForce.Load(); c != nil {
		s.Config = *c
	}
	s.Leases = d.control.status(now)
	if line.Exchanged {
		s.Uplink.ExchangeAge = max(now-line.Last, 0).Seconds() // it may be of this moment
	}
	if line.Err != nil {
		s.Uplink.Error = line.Err.Error()
	}
	for _, p := range d.pollers {
		x := p.Status()
		in := InverterStatus{Name: x.Name, State: x.State.String(), SampleAge: never, Failures: x.Failures, Frozen: x.Frozen, Error: x.LastError}
		if x.LastSample >= 0 {
			in.SampleAge = float64(max(now.Milliseconds()-x.LastSample, 0)) / 1000
		}
		s.Inverters = append(s.Inverters, in)
	}
	return s
}

// ReadStatus asks the agent that runs in folder dir. It returns ErrNotRunning
// where there is none.
func ReadStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	err := viaFolder(dir, func(address string) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", address)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w: %s", ErrNotRunning, dir)
		}
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		return json.NewDecoder(io.LimitReader(c, maxStatusSize)).Decode(&s)
	})
	if err != nil {
		return Status{}, fmt.Errorf("asking the agent: %w", err)
	}
	return s, nil
}
