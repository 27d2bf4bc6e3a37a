package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
	"ecowatt/wire/record"
)

// start is when the clock of a test begins.
var start = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

const slot = 15 * time.Second

// cloud is a gateway over a real store and a real key ring, with a clock that
// the test moves.
type cloud struct {
	t       testing.TB
	path    string
	now     atomic.Int64 // ms since 1970
	ring    *countingRing
	random  *countingReader
	store   *store.Store
	reads   atomic.Int64 // of what an HS1 is judged by
	gateway *gateway.Gateway
	stop    func()
	log     lockedBuffer
	roots   func() [][]byte // of trust; nil for none
}

func newCloud(tb testing.TB) *cloud {
	tb.Helper()
	dir := tb.TempDir()
	ring, err := keyring.Create(filepath.Join(dir, "keyring.json"), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &cloud{t: tb, path: filepath.Join(dir, "ecowatt.db"), ring: &countingRing{Ring: ring}, random: &countingReader{}}
	c.now.Store(start.UnixMilli())
	c.open()
	tb.Cleanup(func() { c.stop() })
	return c
}

// open starts a cloud over the files that are there, as after a restart.
func (c *cloud) open() {
	c.t.Helper()
	s, err := store.Open(c.t.Context(), c.path, store.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := s.Run(ctx); err != nil {
			c.t.Errorf("running the store: %v", err)
		}
	})
	c.store = s
	c.stop = sync.OnceFunc(func() {
		cancel()
		wait.Wait()
		if err := s.Close(); err != nil {
			c.t.Errorf("closing the store: %v", err)
		}
	})
	c.gateway, err = gateway.New(c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	c.random.bytes.Store(0)
	c.ring.reset()
}

func (c *cloud) options() gateway.Options {
	return gateway.Options{
		Store: &countingStore{Store: gateway.Of(c.store), cloud: c}, Keys: c.ring, Random: c.random, Slot: slot, Roots: c.roots,
		Now:    func() time.Time { return c.time() },
		Logger: slog.New(slog.NewTextHandler(&c.log, &slog.HandlerOptions{Level: slog.LevelDebug})),

		HandshakeRate: 1_000_000, // tests of what comes after the limit have one address and a clock that stands
	}
}

// restart ends the cloud and begins it again with the same files.
func (c *cloud) restart() {
	c.t.Helper()
	c.stop()
	c.open()
}

func (c *cloud) time() time.Time { return time.UnixMilli(c.now.Load()).UTC() }

func (c *cloud) wait(d time.Duration) { c.now.Add(d.Milliseconds()) }

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) String() string { return fmt.Sprintf("%d %v %x", r.status, r.header, r.body) }

func (c *cloud) post(path string, msg []byte) reply {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(msg))
	r.Header.Set("Content-Type", wire.ContentType)
	return c.do(r)
}

func (c *cloud) do(r *http.Request) reply {
	w := httptest.NewRecorder()
	c.gateway.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.Bytes()}
}

// refused checks that r is the ERR 2, to the byte.
func (c *cloud) refused(r reply, what string) {
	c.t.Helper()
	c.err(r, what, wire.CodeRefused)
	if want := []byte("EW\x01\x7f\x00\x02\x00\x00"); !bytes.Equal(r.body, want) {
		c.t.Fatalf("%s: %x", what, r.body)
	}
}

// err checks that r is an ERR of the code.
func (c *cloud) err(r reply, what string, code wire.Code) wire.ErrorMessage {
	c.t.Helper()
	c.formal(r, what)
	e, err := wire.ParseError(r.body)
	if err != nil || e.Code != code || r.status != code.HTTPStatus() {
		c.t.Fatalf("%s: %v, want ERR %d (%v)", what, r, code, code)
	}
	return e
}

// formal checks what every answer has.
func (c *cloud) formal(r reply, what string) {
	c.t.Helper()
	if r.header.Get("Content-Type") != wire.ContentType || r.header.Get("Cache-Control") != "no-store" ||
		r.header.Get("Content-Length") != fmt.Sprint(len(r.body)) || len(r.header.Values("Set-Cookie")) != 0 {
		c.t.Fatalf("%s: headers %v", what, r.header)
	}
}

// counted checks that the reason was counted n times, and no other.
func (c *cloud) counted(want map[wire.Reason]uint64) {
	c.t.Helper()
	for reason, n := range c.gateway.Counters() {
		if n != want[reason] {
			c.t.Errorf("%s was counted %d times, want %d", reason, n, want[reason])
		}
	}
}

// countedInAll checks that n messages were counted as refused, whatever for.
func (c *cloud) countedInAll(n int) {
	c.t.Helper()
	var all uint64
	for _, m := range c.gateway.Counters() {
		all += m
	}
	if all != uint64(n) {
		c.t.Errorf("%d messages were counted, want %d", all, n)
	}
}

// dump returns every row of the database.
func (c *cloud) dump() string {
	c.t.Helper()
	var all strings.Builder
	for _, table := range []string{"device", "device_key", "session", "hs_seen", "message", "block", "boot", "inventory", "alarm", "audit", "token", "command", "command_order", "command_refusal", "lease", "config_layer", "config_revision", "config_report", "config_due", "firmware", "rollout", "rollout_device"} {
		for _, row := range c.rows("SELECT * FROM " + table) {
			fmt.Fprintln(&all, table, row)
		}
	}
	return all.String()
}

// unchanged runs do and checks that it changed no row.
func (c *cloud) unchanged(what string, do func()) {
	c.t.Helper()
	before := c.dump()
	do()
	if after := c.dump(); after != before {
		c.t.Fatalf("%s changed the database from\n%s\nto\n%s", what, before, after)
	}
}

// rows returns the rows of a query, each written like [1 name].
func (c *cloud) rows(query string, args ...any) []string {
	c.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			c.t.Fatal(err)
		}
		for i, v := range values {
			values[i] = *v.(*any)
			if b, ok := values[i].([]byte); ok {
				values[i] = fmt.Sprintf("%x", b)
			}
		}
		out = append(out, fmt.Sprint(values))
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return out
}

// writes returns a function that reports whether anybody has committed a change
// of the database since it was last asked.
func (c *cloud) writes() func() bool {
	c.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1) // the version is one connection's view
	last := int64(-1)
	return func() bool {
		before := last
		if err := db.QueryRow(`PRAGMA data_version`).Scan(&last); err != nil {
			c.t.Fatal(err)
		}
		return last != before
	}
}

func (c *cloud) count(table string) int { return len(c.rows("SELECT 1 FROM " + table)) }

// actions returns the actions of the audit log about a device.
func (c *cloud) actions(name string) []string {
	c.t.Helper()
	var out []string
	for _, r := range c.audit(name) {
		out = append(out, r.Action)
	}
	return out
}

func (c *cloud) audit(name string) []audit.Record {
	c.t.Helper()
	records, err := c.store.AuditRecords(c.t.Context(), audit.Filter{Device: ecowatt.DeviceID(name)})
	if err != nil {
		c.t.Fatal(err)
	}
	return records
}

// record returns the newest record of an action.
func (c *cloud) record(name, action string) audit.Record {
	c.t.Helper()
	for _, r := range slices.Backward(c.audit(name)) {
		if r.Action == action {
			return r
		}
	}
	c.t.Fatalf("no %s of %s, only %v", action, name, c.actions(name))
	return audit.Record{}
}

func (c *cloud) disable(name string, disabled bool) {
	c.t.Helper()
	err := c.store.UpdateDevice(c.t.Context(), ecowatt.DeviceID(name), registry.Change{Disabled: &disabled}, audit.Actor{Kind: audit.Operator, Name: "ann"}, c.time())
	if err != nil {
		c.t.Fatal(err)
	}
}

// device is the other side, made of the packages of the protocol.
type device struct {
	*cloud
	name  string
	id    key.ID
	epoch key.Epoch
	key   key.Device
	boot  wire.BootID
	up    time.Time // when it was booted

	noise.Secrets
	seq wire.Sequence
}

// add adds a device to the fleet.
func (c *cloud) add(name string) *device {
	c.t.Helper()
	r := registry.New(c.store, c.ring, rand.Reader)
	_, e, err := r.Add(c.t.Context(), registry.Request{ID: name, CloudURL: "http://cloud", By: "ann"}, c.time())
	if err != nil {
		c.t.Fatal(err)
	}
	return &device{cloud: c, name: name, id: e.PSKID, epoch: e.Epoch, key: e.Key, boot: wire.BootID(random16(c.t)), up: c.time().Add(-time.Hour)}
}

// connected adds a device and confirms a session.
func (c *cloud) connected(name string) *device {
	c.t.Helper()
	d := c.add(name)
	d.connect()
	d.exchange(wire.Request{})
	return d
}

func random16(tb testing.TB) (b [16]byte) {
	tb.Helper()
	if _, err := rand.Read(b[:]); err != nil {
		tb.Fatal(err)
	}
	return b
}

// hello begins a handshake.
func (d *device) hello() (*noise.Initiator, []byte) {
	d.t.Helper()
	i, hs1, err := noise.Initiate(d.key.NoisePSK(wire.Suite1), d.id, d.epoch, rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	return i, hs1
}

// connect shakes hands.
func (d *device) connect() wire.Welcome {
	d.t.Helper()
	i, hs1 := d.hello()
	return d.finish(i, d.post(wire.PathSession, hs1))
}

// finish takes an HS2 and begins to use its session.
func (d *device) finish(i *noise.Initiator, r reply) wire.Welcome {
	d.t.Helper()
	d.formal(r, "HS2")
	if r.status != http.StatusOK {
		d.t.Fatalf("the handshake of %s is refused: %v", d.name, r)
	}
	secrets, welcome, err := i.Finish(r.body)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Secrets, d.seq = secrets, 0
	return welcome
}

// request is a REQ on its way.
type request struct {
	bytes []byte
	seq   wire.Sequence
	mac   record.MAC
	keys  noise.Secrets
}

// seal makes the next REQ.
func (d *device) seal(q wire.Request) request {
	d.t.Helper()
	if q.At == (wire.Instant{}) {
		q.At = wire.Instant{Boot: d.boot, Mono: d.time().Sub(d.up).Milliseconds()}
	}
	body, err := wire.EncodeRequest(q)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.sealBody(body)
}

func (d *device) sealBody(body []byte) request {
	d.t.Helper()
	d.seq++
	msg, mac, err := record.SealRequest(d.Keys, d.SID, d.seq, body)
	if err != nil {
		d.t.Fatal(err)
	}
	return request{msg, d.seq, mac, d.Secrets}
}

func (d *device) send(r request) reply { return d.post(wire.PathExchange, r.bytes) }

// opened returns the answer in an RSP.
func (d *device) opened(r request, got reply) wire.Answer {
	d.t.Helper()
	d.formal(got, "RSP")
	if got.status != http.StatusOK {
		d.t.Fatalf("request %d of %s is refused: %v", r.seq, d.name, got)
	}
	body, err := record.OpenAnswer(r.keys.Keys, r.keys.SID, r.seq, r.mac, got.body)
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := wire.DecodeAnswer(body)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// exchange makes an exchange that must succeed.
func (d *device) exchange(q wire.Request) wire.Answer {
	d.t.Helper()
	r := d.seal(q)
	return d.opened(r, d.send(r))
}

// say sends messages and returns what became of them.
func (d *device) say(messages ...wire.Message) []wire.Result {
	d.t.Helper()
	return d.exchange(wire.Request{Messages: messages}).Results
}

// block is a telemetry message of n samples, a second apart, with values from.
func (d *device) block(at time.Time, n int, from int64) wire.Message {
	d.t.Helper()
	return d.telemetry(at.UnixMilli(), n, from, nil)
}

func (d *device) telemetry(t0 int64, n int, from int64, boot *wire.BootID) wire.Message {
	d.t.Helper()
	b := ecowatt.Block{Inverter: "roof", Points: []string{"pac", "vac1"}}
	for i := range n {
		b.Samples = append(b.Samples, ecowatt.Sample{
			At: t0 + int64(i)*1000, Values: []ecowatt.Value{ecowatt.Known(from + int64(i)), {}},
		})
	}
	plain, err := wire.PlainBlock(b, boot)
	if err != nil {
		d.t.Fatal(err)
	}
	body, err := wire.EncodeTelemetry(plain)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindTelemetry, Body: body}
}

func (d *device) logged(entries ...wire.LogEntry) wire.Message {
	d.t.Helper()
	body, err := wire.EncodeLog(entries)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindLog, Body: body}
}

// samples returns what the cloud has of the device, like "12:00:01 pac=7".
func (d *device) samples() []string {
	d.t.Helper()
	var out []string
	q := ingest.Query{Device: ecowatt.DeviceID(d.name), From: start.AddDate(-1, 0, 0), To: start.AddDate(1, 0, 0), Points: []string{"pac"}}
	for part, err := range d.store.Samples(d.t.Context(), q) {
		if err != nil {
			d.t.Fatal(err)
		}
		for _, s := range part.Samples {
			out = append(out, fmt.Sprintf("%s pac=%d", time.UnixMilli(s.At).UTC().Format(time.TimeOnly), s.Values[0].Raw))
		}
	}
	return out
}

// countingRing counts what it is asked, and can fail.
type countingRing struct {
	*keyring.Ring
	unwrapped, wrapped atomic.Int64
}

func (r *countingRing) reset() {
	r.unwrapped.Store(0)
	r.wrapped.Store(0)
}

func (r *countingRing) UnwrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (key.Device, error) {
	r.unwrapped.Add(1)
	return r.Ring.UnwrapDevice(kek, wrapped, device, id, epoch)
}

func (r *countingRing) WrapSession(k key.Session, device string, sid [16]byte) (string, []byte, error) {
	r.wrapped.Add(1)
	return r.Ring.WrapSession(k, device, sid)
}

// countingReader counts the random bytes that were drawn. Without any there was
// no ephemeral key, and so nothing on the curve.
type countingReader struct{ bytes atomic.Int64 }

func (r *countingReader) Read(p []byte) (int, error) {
	r.bytes.Add(int64(len(p)))
	return io.ReadFull(rand.Reader, p)
}

// countingStore counts look-ups of what an HS1 is judged by.
type countingStore struct {
	gateway.Store
	cloud *cloud
}

func (s *countingStore) Credential(ctx context.Context, id key.ID) (session.Credential, error) {
	s.cloud.reads.Add(1)
	return s.Store.Credential(ctx, id)
}

func (s *countingStore) Past(ctx context.Context, id key.ID, hs1 [32]byte, at time.Time) (session.Past, error) {
	s.cloud.reads.Add(1)
	return s.Store.Past(ctx, id, hs1, at)
}

// lockedBuffer collects the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
