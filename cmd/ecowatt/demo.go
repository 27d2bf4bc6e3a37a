package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/internal/disk"
)

// demoFile remembers what the demonstration was set up with, in its folder. It
// is written when the first set-up is complete.
const demoFile = "demo.json"

// demoState is the content of demoFile.
type demoState struct {
	Format  int    `json:"format"`  // 1
	Listen  string `json:"listen"`  // where the cloud listens
	Devices int    `json:"devices"` // enrolled, roof-1 … roof-N
}

// The simulator's inverters have the units 17, 18, … on one address.
const (
	firstUnit      = 17
	maxDemoDevices = 20
	demoSlot       = 15 * time.Second
	demoPatience   = 60 * time.Second
)

// demoSettings is the agent.yaml of a roof of the demonstration.
const demoSettings = `# Written by "ecowatt demo" at every start.
cloud_url: http://%s
inverters:
  - name: inv1
    connect: modbus-tcp://%s
    unit: %d
    profile: ecowatt-sim
sampling_interval: 2
upload_interval: 15
hardware: demo
allow_control: true
hold: 20
`

// demo is one run of the demonstration.
type demo struct {
	dir     string
	state   demoState
	self    string // path of this program
	simAddr string // where the simulator listens in this run
	talk    io.Writer
	sim     *supervised
	cloud   *supervised
	roofs   []*supervised
	failed  chan ending
}

// ending is a program of the demonstration that ended by itself, and its last words.
type ending struct{ name, words string }

func (e ending) String() string {
	return fmt.Sprintf("%s ended and is started again: %s", e.name, e.words)
}

func (a *app) newDemoCommand() *cobra.Command {
	var devices int
	var dir, listen string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole system on this machine: simulator, cloud and gateways",
		Long: `Run the whole system on this machine, on loopback: an inverter simulator, the
cloud with an embedded database, and gateways, each with its launcher and agent.
Started again, it goes on with the same data. Ctrl-C stops everything.`,
		Example: "  ecowatt demo\n  ecowatt demo --devices 5 --data /tmp/demo",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if devices < 1 || devices > maxDemoDevices {
				return usagef("--devices: %d is not within 1 and %d", devices, maxDemoDevices)
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program: %w", err)
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return fmt.Errorf("finding the data folder: %w", err)
			}
			d := &demo{dir: dir, self: self, talk: a.stderr, failed: make(chan ending, 16)}
			return d.run(cmd.Context(), a.stdout, devices, listen)
		},
	}
	c.Flags().IntVar(&devices, "devices", 3, "how many roofs")
	c.Flags().StringVar(&dir, "data", "ecowatt-demo", "folder of everything the demonstration keeps")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the cloud; port 0 takes a free one")
	return c
}

func (d *demo) run(ctx context.Context, stdout io.Writer, devices int, listen string) error {
	for _, program := range []string{"ecowatt-agent", "ecowatt-boot"} {
		if _, err := os.Stat(d.sibling(program)); err != nil {
			return fmt.Errorf("the demonstration needs %s beside ecowatt: %w; build all three with 'make build'", program, err)
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := disk.Lock(d.dir)
	if err != nil {
		return fmt.Errorf("a demonstration runs here already: %w", err)
	}
	defer lock.Close()
	if err := d.prepare(ctx, listen); err != nil {
		return err
	}
	if err := awaitFree(ctx, d.state.Listen); err != nil {
		return d.interrupted(ctx, err)
	}
	defer d.stop()
	d.startServers(ctx, max(devices, d.state.Devices))
	if err := d.awaitCloud(ctx); err != nil {
		return d.interrupted(ctx, err)
	}
	if d.state.Devices == 0 {
		if err := d.pushBroken(ctx); err != nil {
			return d.interrupted(ctx, err)
		}
	}
	if err := d.enrol(ctx, devices); err != nil {
		return d.interrupted(ctx, err)
	}
	if err := d.startRoofs(ctx); err != nil {
		return err
	}
	d.say("waiting for the first samples of %d roofs …", d.state.Devices)
	if err := d.awaitSamples(ctx); err != nil {
		return d.interrupted(ctx, err)
	}
	fmt.Fprint(stdout, d.instructions())
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-d.failed:
			d.say("%v", e)
		}
	}
}

// interrupted is err, unless the person stopped the demonstration.
func (d *demo) interrupted(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.talk, format+"\n", args...) }

func (d *demo) sibling(program string) string {
	return filepath.Join(filepath.Dir(d.self), program)
}

func (d *demo) roofDir(name string) string { return filepath.Join(d.dir, name) }

func roofName(i int) string { return fmt.Sprintf("roof-%d", i+1) }

// prepare reads what an earlier run remembers, or begins a new set-up: one
// that was interrupted half-way holds nothing worth keeping and is begun anew.
func (d *demo) prepare(ctx context.Context, listen string) error {
	name := filepath.Join(d.dir, demoFile)
	data, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := d.clear(); err != nil {
			return err
		}
		d.state = demoState{Format: 1}
	case err != nil:
		return fmt.Errorf("reading what the demonstration remembers: %w", err)
	default:
		if err := json.Unmarshal(data, &d.state); err != nil || d.state.Format != 1 || d.state.Devices < 1 || d.state.Devices > maxDemoDevices {
			return fmt.Errorf("%s cannot be understood; remove the folder to begin anew", name)
		}
	}
	if d.simAddr, err = freeAddress(ctx); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return usagef("--listen: %v", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	switch {
	case port != "0":
		d.state.Listen = net.JoinHostPort(host, port)
	case d.state.Listen == "":
		if d.state.Listen, err = freeAddress(ctx); err != nil {
			return err
		}
	}
	return nil
}

// clear removes what an unfinished first set-up left. Nothing else is touched.
func (d *demo) clear() error {
	names, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("reading the data folder: %w", err)
	}
	for _, n := range names {
		known := slices.Contains([]string{"cloud", "keys", "logs"}, n.Name()) || strings.HasPrefix(n.Name(), "roof-")
		if !known && n.Name() != "lock" && !strings.HasPrefix(n.Name(), demoFile) {
			return fmt.Errorf("%s is no folder of a demonstration: it holds %s; name another with --data", d.dir, n.Name())
		}
		if known {
			if err := os.RemoveAll(filepath.Join(d.dir, n.Name())); err != nil {
				return fmt.Errorf("clearing an unfinished set-up: %w", err)
			}
		}
	}
	return nil
}

// freeAddress is a loopback address on which nothing listens now.
func freeAddress(ctx context.Context) (string, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// lockPatience is how long programs of a demonstration that was killed may take
// to end: they were sent SIGTERM when it died.
const lockPatience = 10 * time.Second

// awaitFree waits until nothing listens on address any more.
func awaitFree(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var c net.ListenConfig
		l, err := c.Listen(ctx, "tcp", address)
		if err == nil {
			return l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listening: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return hinted(fmt.Errorf("another program listens on %s", address), "Stop it, or choose another address with --listen.")
		}
	}
}

func (d *demo) program(name, path string, args ...string) *supervised {
	return &supervised{
		name: name, path: path, args: args, logs: filepath.Join(d.dir, "logs"),
		ended: func(words string) {
			select {
			case d.failed <- ending{name, words}:
			default: // told often enough already
			}
		},
	}
}

func (d *demo) startServers(ctx context.Context, devices int) {
	// The programs are stopped one after the other by stop, not by ctx.
	ctx = context.WithoutCancel(ctx)
	d.sim = d.program("sim", d.self, "sim", "--modbus-tcp", d.simAddr,
		"--inverters", fmt.Sprint(devices), "--start-at", "10:30")
	d.sim.start(ctx)
	d.cloud = d.program("cloud", d.self, "serve", "--data", filepath.Join(d.dir, "cloud"),
		"--listen", d.state.Listen, "--slot", demoSlot.String())
	d.cloud.start(ctx)
}

// stop stops what runs: first the gateways, so that they can say good-bye to a
// living cloud, then the servers.
func (d *demo) stop() {
	d.say("stopping …")
	for _, s := range d.roofs {
		s.stop()
	}
	for _, s := range slices.Concat(d.roofs, []*supervised{d.cloud, d.sim}) {
		if s != nil {
			s.halt()
		}
	}
}

// awaitCloud waits until the cloud says that it is ready, and gives up with
// its last words.
func (d *demo) awaitCloud(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ends := 0
	for {
		if _, err := d.get(ctx, "/readyz"); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case e := <-d.failed:
			// A folder may still be held by the programs of a killed
			// demonstration, which are ending.
			if ends++; ends == 6 {
				return fmt.Errorf("the %s does not start: %s", e.name, e.words)
			}
		case <-ctx.Done():
			return fmt.Errorf("the cloud does not become ready; see %s", filepath.Join(d.dir, "logs", "cloud.log"))
		}
	}
}

// get asks the cloud as the administrator of the demonstration.
func (d *demo) get(ctx context.Context, path string) ([]byte, error) {
	token, err := os.ReadFile(d.tokenFile())
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.state.Listen+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return body, err
}

func (d *demo) tokenFile() string { return filepath.Join(d.dir, "cloud", "token") }

// enrol adds the roofs that are not there yet, with the programs a person
// would use, and remembers them.
func (d *demo) enrol(ctx context.Context, devices int) error {
	for i := d.state.Devices; i < devices; i++ {
		name := roofName(i)
		d.say("enrolling %s", name)
		file := filepath.Join(d.dir, name+".enrol.json")
		if err := d.tool(ctx, d.self, "device", "add", name, "--group", "demo", "--out", file); err != nil {
			return err
		}
		if err := d.tool(ctx, d.sibling("ecowatt-agent"), "enroll", file, "--dir", d.roofDir(name)); err != nil {
			return err
		}
	}
	d.state.Devices = max(d.state.Devices, devices)
	data, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	if err := disk.WriteFile(disk.OS(d.dir), demoFile, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("remembering the set-up: %w", err)
	}
	return nil
}

// tool runs a program to its end; its last words are the error.
func (d *demo) tool(ctx context.Context, path string, args ...string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "ECOWATT_URL=http://"+d.state.Listen, "ECOWATT_TOKEN=", "ECOWATT_TOKEN_FILE="+d.tokenFile())
	words := &lastLine{}
	cmd.Stdout, cmd.Stderr = io.Discard, words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %s (%w)", filepath.Base(path), strings.Join(args, " "), words, err)
	}
	return nil
}

// startRoofs writes what an installer would and starts the launchers.
func (d *demo) startRoofs(ctx context.Context) error {
	agent, err := os.ReadFile(d.sibling("ecowatt-agent"))
	if err != nil {
		return fmt.Errorf("reading the agent program: %w", err)
	}
	for i := range d.state.Devices {
		name := roofName(i)
		dir := disk.OS(d.roofDir(name))
		settings := fmt.Sprintf(demoSettings, d.state.Listen, d.simAddr, firstUnit+i)
		if err := disk.WriteFile(dir, "agent.yaml", []byte(settings), 0o600); err != nil {
			return fmt.Errorf("%s: writing the settings: %w", name, err)
		}
		if err := os.MkdirAll(filepath.Join(d.roofDir(name), "slots", "a"), 0o700); err != nil {
			return fmt.Errorf("%s: making slot a: %w", name, err)
		}
		program := filepath.Join("slots", "a", "ecowatt-agent")
		if have, err := os.ReadFile(filepath.Join(d.roofDir(name), program)); err != nil || !bytes.Equal(have, agent) {
			// The record of the slots is of the program that was there.
			if err := errors.Join(disk.Delete(dir, "boot.json"), disk.WriteFile(dir, program, agent, 0o700)); err != nil {
				return fmt.Errorf("%s: filling slot a: %w", name, err)
			}
		}
		s := d.program(name, d.sibling("ecowatt-boot"), "--dir", d.roofDir(name))
		s.start(context.WithoutCancel(ctx))
		d.roofs = append(d.roofs, s)
	}
	return nil
}

// awaitSamples waits until every roof has been heard of in this run.
func (d *demo) awaitSamples(ctx context.Context) error {
	since := time.Now()
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		var list struct {
			Devices []struct {
				LastSeen time.Time `json:"last_seen"`
			} `json:"devices"`
		}
		seen := 0
		if body, err := d.get(ctx, "/api/v1/devices"); err == nil && json.Unmarshal(body, &list) == nil {
			for _, device := range list.Devices {
				if device.LastSeen.After(since) {
					seen++
				}
			}
		}
		if seen >= d.state.Devices {
			return nil
		}
		select {
		case <-tick.C:
		case e := <-d.failed:
			d.say("%v", e)
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d roofs have spoken; see %s", seen, d.state.Devices, filepath.Join(d.dir, "logs"))
		}
	}
}

func (d *demo) instructions() string {
	here, err := os.Getwd()
	short := func(path string) string {
		if rel, relErr := filepath.Rel(here, path); err == nil && relErr == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
		return path
	}
	ecowatt := short(d.self)
	if !strings.Contains(ecowatt, "/") {
		ecowatt = "./" + ecowatt
	}
	return fmt.Sprintf(`
%d roofs produce. The cloud is at http://%[2]s/api/docs, the logs are in %[3]s.
Type in another terminal:

  export ECOWATT_URL=http://%[2]s ECOWATT_TOKEN_FILE=%[4]s
  %[5]s device list
  %[5]s telemetry show roof-1 --since 5m
  %[5]s config set roof-1 sampling_interval=5 --wait
  %[5]s command limit roof-2 60 --for 2m --wait
  %[5]s device show roof-2
  %[5]s rollout create broken --stage 1 --stage 100%% --watch
  %[5]s log --follow

Ctrl-C stops everything; started again, it goes on with the same data.
`, d.state.Devices, d.state.Listen, short(filepath.Join(d.dir, "logs")), short(d.tokenFile()), ecowatt)
}
