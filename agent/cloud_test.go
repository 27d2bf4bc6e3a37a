package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"ecowatt"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/block"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
	"ecowatt/wire/record"
)

// cloud is the other side, made of the packages of the protocol and a few maps.
// It is a Transport for devices in virtual time and an http.Handler for others.
type cloud struct {
	t    testing.TB
	time func() time.Time

	maxRequest uint32

	mu       sync.Mutex
	keys     map[key.ID]*cloudKey
	window   bool           // an operator lets the device recover
	zero     bool           // the key of an offer is zeros
	offer    *wire.KeyOffer // stands in every answer, in place of the pending key
	sessions map[wire.SessionID]*session
	bodies   map[wire.MessageID]string // of every message that was ever stored
	blocks   []wire.TelemetryBlock     // in the order in which they were stored
	logs     []wire.LogEntry
	stock    []wire.Inventory
	config   *wire.ConfigUpdate // stands in every answer until it is settled
	acks     []wire.ConfigAck
	commands []wire.Command // stand in every answer until they have ended
	results  []wire.CommandResult
	firmware *wire.FirmwareOffer // stands in every answer
	updates  []wire.FotaStatus
	requests []wire.Request
	under    []key.Epoch   // with which key each of them came
	changed  chan struct{} // closed and made anew at each request

	// meddle, if set, may change the statuses of a request's messages before they
	// take effect, or hold the answer back.
	meddle func(n int, q wire.Request, results []wire.Result) fate
	away   bool

	// between, if set, stands on the way: ask passes the message on.
	between func(path string, msg []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error)
}

// cloudKey is a key of the device as the cloud has it (protocol, section 9).
type cloudKey struct {
	identity.Credential
	state string // "pending", "active", "recovery" or "retired"
	burn  bool
}

// fate is what becomes of a request and its answer.
type fate int

const (
	arrives   fate = iota // both arrive
	lost                  // the request does not
	forgotten             // the request has its effect, the answer is lost
)

type session struct {
	keys key.Session
	last wire.Sequence
	with *cloudKey
}

func newCloud(tb testing.TB, c identity.Credential, now func() time.Time) *cloud {
	tb.Helper()
	return &cloud{
		t: tb, keys: map[key.ID]*cloudKey{c.ID: {Credential: c, state: "active"}}, time: now, maxRequest: wire.MaxRequest,
		sessions: map[wire.SessionID]*session{}, bodies: map[wire.MessageID]string{}, changed: make(chan struct{}),
	}
}

var errLost = errors.New("lost on the way")

// Post is the Transport of a device under test.
func (c *cloud) Post(_ context.Context, path string, msg []byte, limit int) (uplink.Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return uplink.Reply{}, errLost
	}
	ask := func() (uplink.Reply, error) {
		if path == wire.PathSession {
			return c.session(msg)
		}
		return c.exchange(msg)
	}
	between := c.between
	if between == nil {
		between = func(_ string, _ []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error) { return ask() }
	}
	reply, err := between(path, msg, ask)
	if len(reply.Body) > limit {
		reply.Body = nil
	}
	return reply, err
}

// ServeHTTP is the cloud of a device that is a program.
func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	msg, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	reply, err := c.Post(r.Context(), r.URL.Path, msg, wire.MaxAnswer)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", wire.ContentType)
	w.WriteHeader(reply.Status)
	w.Write(reply.Body)
}

func (c *cloud) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

// setConfig makes an update of the configuration.
func (c *cloud) setConfig(revision uint64, parameters map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = &wire.ConfigUpdate{Revision: revision, Parameters: parameters}
}

// phases returns what the device told of updates.
func (c *cloud) phases() (phases []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.updates {
		phases = append(phases, strings.TrimSpace(f.Phase+" "+f.Code))
	}
	return phases
}

// told returns what the device told of its configuration, a line for each time.
func (c *cloud) told() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for _, a := range c.acks {
		line := fmt.Sprint(a.Revision)
		for _, name := range a.Accepted {
			line += " +" + name
		}
		for _, name := range slices.Sorted(maps.Keys(a.Rejected)) {
			line += " -" + name + "=" + a.Rejected[name].Code
		}
		for _, name := range a.Unchanged {
			line += " =" + name
		}
		lines = append(lines, line)
	}
	return lines
}

func refuse(code wire.Code) (uplink.Reply, error) {
	return uplink.Reply{Status: code.HTTPStatus(), Body: wire.ErrorMessage{Code: code}.Append(nil)}, nil
}

func (c *cloud) session(hs1 []byte) (uplink.Reply, error) {
	h, err := wire.Parse(hs1, wire.HS1)
	if err != nil {
		return refuse(wire.CodeOf(err))
	}
	k := c.keys[h.KeyID()]
	if k == nil || k.state == "retired" || k.state == "recovery" && !c.window {
		return refuse(wire.CodeRefused)
	}
	responder, err := noise.Accept(k.Key.NoisePSK(wire.Suite1), hs1)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	welcome := wire.Welcome{ServerTime: c.time().UnixMilli(), Lifetime: 24 * time.Hour, MaxRequest: c.maxRequest}
	if k.state == "recovery" {
		welcome.Flags = wire.RecoverySession
	}
	hs2, secrets, err := responder.Finish(welcome, rand.Reader)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	c.sessions[secrets.SID] = &session{keys: secrets.Keys, with: k}
	return uplink.Reply{Status: 200, Body: hs2}, nil
}

func (c *cloud) exchange(req []byte) (uplink.Reply, error) {
	h, err := wire.Parse(req, wire.REQ)
	if err != nil {
		return refuse(wire.CodeOf(err))
	}
	s := c.sessions[h.Session()]
	if s == nil || h.Sequence() <= s.last || len(req) > int(c.maxRequest) {
		return refuse(wire.CodeRefused)
	}
	body, mac, err := record.OpenRequest(s.keys, req)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	q, err := wire.DecodeRequest(bytes.Clone(body))
	if err != nil {
		c.t.Errorf("the device sent %x: %v", body, err)
		return refuse(wire.CodeMalformed)
	}
	results := make([]wire.Result, len(q.Messages))
	for i, m := range q.Messages {
		results[i] = wire.Result{ID: m.ID, Status: wire.Stored}
	}
	becomes := arrives
	if c.meddle != nil {
		becomes = c.meddle(len(c.requests), q, results)
	}
	c.requests, c.under = append(c.requests, q), append(c.under, s.with.Epoch)
	defer func() {
		close(c.changed)
		c.changed = make(chan struct{})
	}()
	if becomes == lost {
		return uplink.Reply{}, errLost
	}
	s.last = h.Sequence()
	a := wire.Answer{ServerTime: c.time().UnixMilli(), Results: results, KeyOffer: c.rotate(s, q)}
	for i, m := range q.Messages {
		if s.with.state == "recovery" {
			c.t.Error("a message in a recovery session")
		}
		if results[i].Status == wire.Stored {
			results[i].Status = c.store(m)
		}
	}
	a.Config, a.Commands, a.Firmware = c.config, c.commands, c.firmware
	if becomes == forgotten {
		return uplink.Reply{}, errLost
	}
	answer, err := wire.EncodeAnswer(a)
	if err != nil {
		c.t.Error(err)
	}
	if c.zero && a.KeyOffer != nil {
		secret := a.KeyOffer.Key.Secret()
		answer = bytes.Replace(answer, secret[:], make([]byte, key.Size), 1)
	}
	rsp, err := record.SealAnswer(s.keys, h.Session(), h.Sequence(), mac, rand.Reader, answer)
	if err != nil {
		c.t.Error(err)
	}
	return uplink.Reply{Status: 200, Body: rsp}, nil
}

func (c *cloud) store(m wire.Message) wire.Status {
	if before, ok := c.bodies[m.ID]; ok {
		if before != string(m.Body) {
			c.t.Errorf("message %v came again with another body", m.ID)
			return wire.Conflict
		}
		return wire.Duplicate
	}
	c.bodies[m.ID] = string(m.Body)
	var err error
	switch m.Kind {
	case wire.KindTelemetry:
		var b wire.TelemetryBlock
		b, err = wire.DecodeTelemetry(m.Body)
		c.blocks = append(c.blocks, b)
	case wire.KindLog:
		var entries []wire.LogEntry
		entries, err = wire.DecodeLog(m.Body)
		c.logs = append(c.logs, entries...)
	case wire.KindInventory:
		var v wire.Inventory
		v, err = wire.DecodeInventory(m.Body)
		c.stock = append(c.stock, v)
	case wire.KindConfigAck:
		var a wire.ConfigAck
		a, err = wire.DecodeConfigAck(m.Body)
		c.acks = append(c.acks, a)
		if c.config != nil && a.Revision == c.config.Revision {
			c.config = nil
		}
	case wire.KindCommandResult:
		var r wire.CommandResult
		r, err = wire.DecodeCommandResult(m.Body)
		c.results = append(c.results, r)
		if r.Status != wire.CommandExecuting {
			c.commands = slices.DeleteFunc(c.commands, func(x wire.Command) bool { return x.ID == r.ID })
		}
	case wire.KindFotaStatus:
		var f wire.FotaStatus
		f, err = wire.DecodeFotaStatus(m.Body)
		c.updates = append(c.updates, f)
	}
	if err != nil {
		c.t.Errorf("a message that cannot be read: %v", err)
	}
	return wire.Stored
}

// unpack returns the samples of a block, and checks them as the cloud does: times
// do not go back.
func (c *cloud) unpack(b wire.TelemetryBlock) []ecowatt.Sample {
	t0 := b.T0
	if b.Boot != nil {
		t0 = b.Boot.Mono
	}
	var samples []ecowatt.Sample
	var err error
	switch b.Codec {
	case wire.CodecPlain:
		samples, err = unpackPlain(b)
	case wire.CodecPacked:
		var data []byte
		if err = cbor.Unmarshal(b.Data, &data); err == nil {
			samples, err = block.Decode(data, block.Limits{})
		}
	default:
		err = errors.New("unknown codec")
	}
	if err != nil || len(samples) != int(b.Count) || len(samples[0].Values) != ecowatt.Columns(len(b.Points), b.Window) {
		c.t.Errorf("a block that cannot be read: %v in %+v", err, b)
		return nil
	}
	for i := range samples {
		samples[i].At += t0
		if i > 0 && samples[i].At < samples[i-1].At {
			c.t.Errorf("sample %d of a block is before the one before it", i)
		}
	}
	return samples
}

// unpackPlain unpacks codec 0 (PROTOCOL section 6), with times since t0.
func unpackPlain(b wire.TelemetryBlock) ([]ecowatt.Sample, error) {
	var data [][]*int64 // times, then the values of each point
	if err := cbor.Unmarshal(b.Data, &data); err != nil {
		return nil, err
	}
	if len(data) != 1+ecowatt.Columns(len(b.Points), b.Window) {
		return nil, errors.New("not one list per column")
	}
	samples := make([]ecowatt.Sample, len(data[0]))
	for i := range samples {
		samples[i].At = *data[0][i]
		for p := range len(data) - 1 {
			v := ecowatt.Value{}
			if raw := data[1+p][i]; raw != nil {
				v = ecowatt.Known(*raw)
			}
			samples[i].Values = append(samples[i].Values, v)
		}
	}
	return samples, nil
}

// samples returns what is stored of an inverter, in the order in which it came.
// Blocks that are timed since boot get a place when offset is of their boot.
func (c *cloud) samples(inverter string, boot wire.BootID, offset int64) []ecowatt.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []ecowatt.Sample
	for _, b := range c.blocks {
		if b.Inverter != inverter {
			continue
		}
		shift := int64(0)
		if b.Boot != nil {
			if shift = offset; b.Boot.Boot != boot {
				c.t.Errorf("a block of the boot %v", b.Boot.Boot)
			}
		}
		for _, s := range c.unpack(b) {
			s.At += shift
			all = append(all, s)
		}
	}
	return all
}

// codes returns how often each code is in the device's log.
func (c *cloud) codes() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[string]int{}
	for _, e := range c.logs {
		n[e.Code]++
	}
	return n
}
