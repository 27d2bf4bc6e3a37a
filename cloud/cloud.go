// Package cloud wires the parts of the server together: the store and its key
// ring, the endpoint of the devices and the API of the operators, behind one
// address and in one data folder.
package cloud

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ecowatt/cloud/access"
	"ecowatt/cloud/api"
	"ecowatt/cloud/artifact"
	"ecowatt/cloud/command"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// Files of the data folder, beside the lock of package disk.
const (
	databaseFile = "ecowatt.db"
	keyringFile  = "keyring.json"
	tokenFile    = "token"

	firmwareFolder  = "firmware"  // roots of trust
	artifactsFolder = "artifacts" // files of releases
)

// Options of a cloud. Only Data must be given.
type Options struct {
	Data      string          // the data folder; made with mode 0700 where there is none
	Database  string          // "sqlite:FILE"; empty for ecowatt.db in the data folder
	Listen    string          // address, as net.Listen takes it; default ":8080"
	PublicURL string          // the cloud URL of enrolment files; empty for the one by which each request came
	Slot      time.Duration   // the time between a device's exchanges, 1 s … 24 h; default 15 min
	Hold      time.Duration   // for how long an answer may be held back until there is something to say, at most gateway.MaxHold; 0 for never
	Logger    *slog.Logger    // default discards
	Keep      store.Retention // of telemetry

	// HandshakeRate is how many handshakes a second each address may begin, 1 …
	// 1,000,000; default gateway.DefaultHandshakeRate. TrustedProxies are those
	// that are believed when they say for whom they ask; default none.
	HandshakeRate  int
	TrustedProxies []netip.Prefix

	// Ready is called once, with the address that is listened on, when the cloud
	// answers. Nil for nobody.
	Ready func(address string)
}

const maxHandshakeRate = 1_000_000

// OptionError says which option cannot be meant, and why. Nothing was touched.
type OptionError struct {
	Option  string // as named on the command line: "--db"
	Problem string
}

func (e *OptionError) Error() string { return e.Option + ": " + e.Problem }

// database schemes.
const (
	schemeSQLite   = "sqlite:"
	schemePostgres = "postgres"
)

// database is the file of the database that an option names, or an *OptionError.
func database(data, option string) (string, error) {
	file, ok := strings.CutPrefix(option, schemeSQLite)
	switch {
	case option == "":
		return filepath.Join(data, databaseFile), nil
	case strings.HasPrefix(option, schemePostgres):
		return "", &OptionError{Option: "--db", Problem: "PostgreSQL is not supported yet; use sqlite:FILE"}
	case !ok || file == "":
		return "", &OptionError{Option: "--db", Problem: fmt.Sprintf("%q is not of the form sqlite:FILE", option)}
	}
	return file, nil
}

// checked returns the options with their defaults, or an *OptionError.
func (o Options) checked() (Options, error) {
	refuse := func(option, format string, args ...any) (Options, error) {
		return Options{}, &OptionError{Option: option, Problem: fmt.Sprintf(format, args...)}
	}
	if o.Data == "" {
		return refuse("--data", "the data folder is missing")
	}
	var err error
	if o.Database, err = database(o.Data, o.Database); err != nil {
		return Options{}, err
	}
	if o.Listen == "" {
		o.Listen = ":8080"
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return refuse("--listen", "%q is not of the form HOST:PORT or :PORT", o.Listen)
	}
	if o.PublicURL != "" {
		u, err := url.Parse(o.PublicURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return refuse("--public-url", "%q is not of the form http://HOST or https://HOST", o.PublicURL)
		}
	}
	if o.Slot == 0 {
		o.Slot = gateway.DefaultSlot
	}
	if o.Slot < time.Second || o.Slot > 24*time.Hour {
		return refuse("--slot", "%v is not within 1s and 24h", o.Slot)
	}
	if o.Hold < 0 || o.Hold > gateway.MaxHold {
		return refuse("--hold", "%v is not within 0s and %v", o.Hold, gateway.MaxHold)
	}
	if o.HandshakeRate == 0 {
		o.HandshakeRate = gateway.DefaultHandshakeRate
	}
	if o.HandshakeRate < 1 || o.HandshakeRate > maxHandshakeRate {
		return refuse("--handshake-rate", "%d is not within 1 and %d", o.HandshakeRate, maxHandshakeRate)
	}
	for option, keep := range map[string]time.Duration{"--keep-samples": o.Keep.Samples, "--keep-minutes": o.Keep.Minutes} {
		if keep != 0 && keep < 24*time.Hour {
			return refuse(option, "%v is less than a day; 0 keeps them for ever", keep)
		}
	}
	if o.Keep.Minutes != 0 && (o.Keep.Samples == 0 || o.Keep.Samples > o.Keep.Minutes) {
		return refuse("--keep-minutes", "minutes are kept no longer than --keep-samples keeps what they are made of; keep them as long at least")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Run serves the cloud until ctx ends, then finishes what has begun and returns
// nil. It refuses, before anything is served: options that cannot be meant
// (*OptionError), a data folder in use by another process (disk.ErrLocked), a
// database of a newer program (*store.VersionError) or without its key ring,
// and an address that it cannot listen on.
func Run(ctx context.Context, o Options) (err error) {
	o, err = o.checked()
	if err != nil {
		return err
	}
	if err := makeFolder(o.Data); err != nil {
		return err
	}
	lock, err := disk.Lock(o.Data)
	if err != nil {
		return err
	}
	defer lock.Close()
	listener, err := listen(ctx, o.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	db, err := store.Open(ctx, o.Database, store.Options{Retention: o.Keep})
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	keys, err := openKeys(ctx, db, o)
	if err != nil {
		return err
	}
	if err := bootstrap(ctx, db, o); err != nil {
		return err
	}
	if err := db.Condense(ctx); err != nil {
		return err
	}
	s := &server{db: db, listener: listener, logger: o.Logger, ready: o.Ready, draining: make(chan struct{})}
	if s.handler, err = s.newHandler(ctx, o, keys); err != nil {
		return err
	}
	return s.run(ctx)
}

// makeFolder makes the data folder, and refuses one that others may write to:
// they could put another key ring or database into it.
func makeFolder(dir string) error {
	_, err := os.Stat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if isNew {
		if err := disk.OS(filepath.Dir(filepath.Clean(dir))).SyncDir("."); err != nil {
			return fmt.Errorf("making the data folder: %w", err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at the data folder: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("the data folder %s may be written to by others (mode %04o): use one of its own, or chmod 700 %s", dir, mode, dir)
	}
	return nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		if inner, ok := errors.AsType[*net.OpError](err); ok {
			err = inner.Err // without the address, which is named already
		}
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return l, nil
}

// bootstrap writes the first administrator's token where that person finds it.
func bootstrap(ctx context.Context, db *store.Store, o Options) error {
	made, err := access.Bootstrap(ctx, db, rand.Reader, time.Now(), func(t key.Token) error {
		return disk.WriteFile(disk.OS(o.Data), tokenFile, []byte(t.Text()+"\n"), 0o600)
	})
	if err != nil {
		return err
	}
	if made {
		o.Logger.InfoContext(ctx, "administrator's token made", "file", filepath.Join(o.Data, tokenFile))
	}
	return nil
}

// newHandler makes the handler of everything.
func (s *server) newHandler(ctx context.Context, o Options, keys *keyring.Ring) (http.Handler, error) {
	roots, err := openTrust(disk.OS(o.Data), s.db, time.Now)
	if err != nil {
		return nil, err
	}
	releases, err := openDepot(ctx, o.Data, &depot{db: s.db, keys: keys, roots: roots, now: time.Now, logger: o.Logger})
	if err != nil {
		return nil, err
	}
	artifacts := artifact.NewServer(releases.files, o.Logger)
	devices, err := gateway.New(gateway.Options{
		Store: gateway.Of(s.db), Keys: keys, Random: rand.Reader, Now: time.Now, Slot: o.Slot, Logger: o.Logger,
		Hold: o.Hold, Draining: s.draining,
		Roots:         func() [][]byte { return roots.Roots().Later() },
		HandshakeRate: o.HandshakeRate, TrustedProxies: o.TrustedProxies,
	})
	if err != nil {
		return nil, fmt.Errorf("making the gateway: %w", err)
	}
	s.tell, s.wake = devices.Run, devices.Wake
	operators, err := api.New(api.Options{
		Fleet: s.db, Telemetry: s.db, Log: s.db, Tokens: s.db,
		Registry:       registry.New(s.db, keys, rand.Reader),
		Rotations:      registry.NewRotations(s.db, keys, rand.Reader),
		Keyring:        &keeper{ring: keys, db: s.db, random: rand.Reader, now: time.Now},
		Ready:          s.db.Ready,
		Unavailable:    store.ErrUnavailable,
		Commands:       s.db,
		Configurations: s.db,
		Commander:      command.NewQueue(s.db, rand.Reader, devices.Wake),
		Wake:           devices.Wake,
		Metrics:        func(ctx context.Context) []api.Metric { return s.metrics(ctx, devices, artifacts) },
		PublicURL:      o.PublicURL,
		Trust:          roots,
		Releases:       s.db,
		Depot:          releases,
		Rollouts:       s.db,
		Draining:       s.draining,
		Logger:         o.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", devices)
	mux.Handle(artifact.Path, artifacts)
	mux.Handle("/", operators)
	return mux, nil
}

// metrics are what /metrics shows. What is counted in the database is left out while
// that does not answer.
func (s *server) metrics(ctx context.Context, devices *gateway.Gateway, artifacts *artifact.Server) []api.Metric {
	all := append(counts(s.db.Counts(), devices), artifactCounts(artifacts.Counts())...)
	commands, err := s.db.CommandCounts(ctx)
	if err != nil {
		s.logger.WarnContext(ctx, "commands could not be counted", "error", err)
		return all
	}
	states := map[string]uint64{}
	for state, n := range commands {
		states[string(state)] = n
	}
	pending, drifted, err := s.db.ConfigCounts(ctx)
	if err != nil {
		s.logger.WarnContext(ctx, "configurations could not be counted", "error", err)
		return all
	}
	rollouts, updates, err := s.rolloutCounts(ctx)
	if err != nil {
		s.logger.WarnContext(ctx, "rollouts could not be counted", "error", err)
		return all
	}
	return append(all,
		api.Metric{Name: "ecowatt_rollouts", Help: "Rollouts that there are, by state.", Label: "state", Values: rollouts, Gauge: true},
		api.Metric{Name: "ecowatt_rollout_devices", Help: "Devices of rollouts of which something is still to come, by phase.", Label: "phase", Values: updates, Gauge: true},
		api.Metric{Name: "ecowatt_commands", Help: "Commands that there are, by state.", Label: "state", Values: states, Gauge: true},
		api.Metric{Name: "ecowatt_config_pending_devices", Help: "Devices that have not answered what is desired of them.", Values: one(pending), Gauge: true},
		api.Metric{Name: "ecowatt_config_drift_devices", Help: "Devices that have answered, and do not have in force what is desired.", Values: one(drifted), Gauge: true})
}

// rolloutCounts are how many rollouts there are by state, and devices of those that
// are open by phase.
func (s *server) rolloutCounts(ctx context.Context) (rollouts, updates map[string]uint64, err error) {
	states, err := s.db.RolloutCounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	phases, err := s.db.UpdateCounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	rollouts, updates = map[string]uint64{}, map[string]uint64{}
	for state, n := range states {
		rollouts[string(state)] = n
	}
	for phase, n := range phases {
		updates[string(phase)] = n
	}
	return rollouts, updates, nil
}

func artifactCounts(c artifact.Counts) []api.Metric {
	return []api.Metric{
		{Name: "ecowatt_artifact_bytes_total", Help: "Bytes of files of releases that were given to devices.", Values: one(c.Bytes)},
		{Name: "ecowatt_artifact_refused_total", Help: "Requests for files of releases that were asked to come again.", Values: one(c.Refused)},
		{Name: "ecowatt_artifact_readers", Help: "Files of releases that are being given.", Values: one(c.Readers), Gauge: true},
	}
}

func one(n uint64) map[string]uint64 { return map[string]uint64{"": n} }

func counts(c store.Counts, devices *gateway.Gateway) []api.Metric {
	refused := map[string]uint64{}
	for reason, n := range devices.Counters() {
		refused[string(reason)] = n
	}
	return []api.Metric{
		{Name: "ecowatt_store_commits_total", Help: "Transactions made durable.", Values: one(c.Commits)},
		{Name: "ecowatt_store_units_total", Help: "Exchanges and handshakes made durable in them.", Values: one(c.Units)},
		{Name: "ecowatt_store_refused_total", Help: "Exchanges and handshakes that were refused when they were to be stored.", Values: one(c.Refused)},
		{Name: "ecowatt_store_failed_total", Help: "Exchanges and handshakes that the database could not store.", Values: one(c.Failed)},
		{Name: "ecowatt_gateway_refused_total", Help: "Messages of devices that were refused, by reason.", Label: "reason", Values: refused},
		{Name: "ecowatt_gateway_held_answers", Help: "Answers that are held back until there is something to say.", Values: one(uint64(devices.Held())), Gauge: true},
	}
}
