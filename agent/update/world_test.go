package update_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
)

const (
	hardware = "rev-c"
	folder   = "/v1/artifacts/"
	sealed   = firmware.SegmentSize + 16 // bytes of a chunk
)

func product() firmware.ProductID { return firmware.ProductID([]byte(ecowatt.Product)) }

func signing(tb testing.TB, n byte) key.Signing {
	tb.Helper()
	seed := sha256.Sum256([]byte{n})
	k, err := key.SigningFromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func content(tb testing.TB, n byte) key.Content {
	tb.Helper()
	b := sha256.Sum256([]byte{'c', n})
	k, err := key.ContentFromBytes(b[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// rootOf is a signed root of trust: root key 1, and the release keys that are named.
func rootOf(tb testing.TB, version uint64, release ...byte) []byte {
	tb.Helper()
	var keys []ed25519.PublicKey
	for _, n := range release {
		keys = append(keys, signing(tb, n).Public())
	}
	r, err := firmware.NewRoot(version, []ed25519.PublicKey{signing(tb, 1).Public()}, keys, 1, 1)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := r.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	return signed(tb, e, firmware.StatementRoot, 1)
}

func signed(tb testing.TB, e firmware.Envelope, kind firmware.Statement, by byte) []byte {
	tb.Helper()
	if err := e.Sign(kind, signing(tb, by)); err != nil {
		tb.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// noise is bytes that do not pack.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(b)
	return b
}

func hash(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// release is a release with its files.
type release struct {
	manifest firmware.Manifest
	image    []byte
	packed   []firmware.Packed
}

// build makes a release of an image; of a base as well, unless it is nil, which then
// comes first.
func build(tb testing.TB, number uint64, image, base []byte) *release {
	tb.Helper()
	r := &release{image: image, manifest: firmware.Manifest{
		Format: 1, Product: product(), Hardware: []string{hardware}, Version: fmt.Sprint("release ", number), Release: number, Security: 1,
		Size: uint64(len(image)), Image: sha256.Sum256(image),
	}}
	if base != nil {
		frame, err := delta.Diff(base, image)
		if err != nil {
			tb.Fatal(err)
		}
		sum := sha256.Sum256(base)
		r.pack(tb, firmware.Source{Kind: firmware.KindDiff, Plain: frame, Base: sum[:], BaseSize: uint64(len(base)), Window: delta.DiffWindow})
	}
	frame, err := delta.Full(image)
	if err != nil {
		tb.Fatal(err)
	}
	r.pack(tb, firmware.Source{Kind: firmware.KindFull, Plain: frame, Window: delta.FullWindow})
	return r
}

func (r *release) pack(tb testing.TB, s firmware.Source) {
	tb.Helper()
	p, err := firmware.Pack(s, content(tb, 1), product(), rand.NewChaCha8([32]byte{7}))
	if err != nil {
		tb.Fatal(err)
	}
	r.packed = append(r.packed, p)
	r.manifest.Payloads = append(r.manifest.Payloads, p.Payload)
}

// offer is the release as the cloud offers it, signed by the release key 2.
func (r *release) offer(tb testing.TB) *update.Offer {
	tb.Helper()
	e, err := r.manifest.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	return &update.Offer{Manifest: e.ID(), Envelope: signed(tb, e, firmware.StatementManifest, 2), Content: content(tb, 1), Path: folder}
}

// server has the files of releases.
type server struct {
	files   map[string][]byte
	ranges  []string // that were asked for: "HASH FROM+N"
	sent    int      // bytes that were read
	chunks  map[uint64]int
	payload firmware.Payload // whose chunks are counted

	// meddle, if set, may change what is sent.
	meddle func(from, n uint64, file []byte) (at uint64, body []byte, err error)
}

func serve(all ...*release) *server {
	s := &server{files: map[string][]byte{}, chunks: map[uint64]int{}}
	for _, r := range all {
		for _, p := range r.packed {
			s.files[folder+hash(p.Artifact)], s.files[folder+hash(p.Table)] = p.Artifact, p.Table
		}
		s.payload = r.packed[0].Payload
	}
	return s
}

var errAway = errors.New("no such file")

func (s *server) Get(_ context.Context, path string, from, n uint64) (uint64, io.ReadCloser, error) {
	file, ok := s.files[path]
	s.ranges = append(s.ranges, fmt.Sprintf("%.8s %d+%d", strings.TrimPrefix(path, folder), from, n))
	switch {
	case !ok:
		return 0, nil, errAway
	case s.meddle != nil:
		at, body, err := s.meddle(from, n, file)
		return at, io.NopCloser(&counter{r: bytes.NewReader(body), s: s}), err
	case from+n > uint64(len(file)):
		return 0, nil, fmt.Errorf("%d bytes from %d on of %d", n, from, len(file))
	}
	c := &counter{r: bytes.NewReader(file[from : from+n]), s: s}
	if hash(file) == hex.EncodeToString(s.payload.Artifact[:]) {
		c.at, c.counts = from, true
	}
	return from, io.NopCloser(c), nil
}

type counter struct {
	r      io.Reader
	s      *server
	counts bool   // chunks, as their first bytes are read
	at     uint64 // of the file
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.s.sent += n
	for i := uint64(0); c.counts && i < c.s.payload.Chunks; i++ {
		if begin := c.s.payload.ChunkOffset(i); begin >= c.at && begin < c.at+uint64(n) {
			c.s.chunks[i]++
		}
	}
	c.at += uint64(n)
	return n, err
}

// gateway is a gateway's disk with the program base in slot a, and what the agent
// on it knows of the world.
type gateway struct {
	t       testing.TB
	fs      disk.FS
	base    []byte
	server  *server
	root    []byte
	now     time.Duration
	seconds int64
	free    uint64
	budget  uint64 // of a slot; 0 for none
	silent  bool   // the cloud was not heard for long
	shut    bool   // it is not the time for updates
	byHand  bool   // the launcher is not there
	tellErr error
	log     bytes.Buffer
}

// install puts the base into slot a.
func install(fsys disk.FS, base []byte) error {
	if err := disk.MkdirAll(fsys, "slots/a", 0o700); err != nil {
		return err
	}
	return disk.WriteFile(fsys, boot.A.Program(), base, 0o700)
}

func newGateway(tb testing.TB, base, root []byte, s *server) *gateway {
	tb.Helper()
	g := &gateway{t: tb, fs: disktest.New(), base: base, server: s, root: root, seconds: 1_800_000_000, free: 1 << 30}
	if err := install(g.fs, base); err != nil {
		tb.Fatal(err)
	}
	return g
}

// agent starts the program that is in the active slot.
func (g *gateway) agent() *update.Updater {
	record, err := boot.ReadRecord(g.fs)
	if err != nil {
		record = boot.Initial() // as the launcher has it
	}
	image, _ := disk.ReadFile(g.fs, record.Active.Program(), 1<<30)
	return update.New(update.Options{
		FS: g.fs, Device: "roof-1", Hardware: hardware, Protocol: 1, Root: g.root, Image: sha256.Sum256(image), Version: "0", Launched: !g.byHand,
		Source: g.server, Free: func() (uint64, error) { return g.free, nil }, Seconds: func() int64 { return g.seconds },
		Contact: func() (time.Duration, bool) {
			if g.silent {
				return 2 * time.Hour, true
			}
			return time.Second, true
		},
		Open: func() bool { return !g.shut }, Answering: func() []string { return []string{"inv1"} }, Tell: g.tell,
		Pause:  func(context.Context, time.Duration) bool { return true },
		Stable: 5 * time.Minute, Logger: slog.New(slog.NewTextHandler(&g.log, nil)),
	})
}

const toldFile = "told"

// tell keeps a report as the buffer does: for good.
func (g *gateway) tell(r update.Report) error {
	if g.tellErr != nil {
		return g.tellErr
	}
	l, err := disk.OpenLog(g.fs, toldFile, 0o600, func([]byte) error { return nil })
	if err != nil {
		return err
	}
	line := string(r.Phase)
	if r.Code != "" {
		line += " " + string(r.Code)
	}
	if r.Phase == update.Downloading {
		line += fmt.Sprintf(" %d/%d", r.Done, r.All)
	}
	return errors.Join(l.Append([]byte(line)), l.Sync(), l.Close())
}

func (g *gateway) told() (lines []string) {
	l, err := disk.OpenLog(g.fs, toldFile, 0o600, func(r []byte) error {
		lines = append(lines, string(r))
		return nil
	})
	if err == nil {
		l.Close()
	}
	return lines
}

// slot is an exchange that begins a slot, and the work after it.
func (g *gateway) slot(u *update.Updater, o *update.Offer, budget uint64) (handOver bool) {
	u.Deliver(o, true, budget)
	return u.Work(g.t.Context())
}

// look is the launcher's look at a slot.
func (g *gateway) look(r boot.Record) func(boot.Slot) boot.Condition {
	return func(s boot.Slot) boot.Condition {
		data, err := disk.ReadFile(g.fs, s.Program(), 1<<30)
		switch image := r.Image(s); {
		case err != nil:
			return boot.Bad
		case image == nil:
			return boot.Good
		case hash(data) != image.SHA256 || int64(len(data)) != image.Size:
			return boot.Bad
		case image.Security < r.MinSecurity:
			return boot.Outdated
		}
		return boot.Good
	}
}

// launch is the launcher's decision: the record with which an agent is started.
func (g *gateway) launch(last boot.Ending) (boot.Record, error) {
	before, err := boot.ReadRecord(g.fs)
	if err != nil {
		return before, err
	}
	r, err := before.Start(g.look(before), last)
	if err != nil {
		return r, err
	}
	if r.Active != before.Active || r.Starts != before.Starts {
		return r, r.Write(g.fs)
	}
	return r, nil
}

// running is the image in the active slot.
func (g *gateway) running() []byte {
	g.t.Helper()
	record, err := boot.ReadRecord(g.fs)
	if err != nil {
		g.t.Fatal(err)
	}
	data, err := disk.ReadFile(g.fs, record.Active.Program(), 1<<30)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}
