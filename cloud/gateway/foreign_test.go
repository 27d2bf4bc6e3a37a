package gateway_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"ecowatt/cloud/gateway"
	"ecowatt/wire"
	"ecowatt/wire/noise"
)

// TestUnsealedUploads: what the first system took as an upload, and a body of
// ours without its seal, store nothing.
//
// Attacks: O4
func TestUnsealedUploads(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	body, err := wire.EncodeRequest(wire.Request{At: wire.Instant{Boot: d.boot}, Messages: []wire.Message{d.block(start, 1, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	padded := wire.Pad(nil, body)
	header := wire.Record(wire.REQ, d.SID, d.seq+1).Append(nil)
	open := slices.Concat(header, padded, make([]byte, 48)) // with a tag and a HMAC of nothing
	json := []byte(`{"device_id":"roof-1","nonce":1,"payload":"AAEC","mac":""}`)
	c.unchanged("an upload without a seal", func() {
		for name, msg := range map[string][]byte{"JSON": json, "a body alone": body, "without tag and HMAC": slices.Concat(header, padded)} {
			c.err(c.post(wire.PathExchange, msg), name, wire.CodeMalformed)
		}
		c.refused(c.post(wire.PathExchange, open), "in the clear, with zeros for a seal")
		r := httptest.NewRequest(http.MethodPost, wire.PathExchange, bytes.NewReader(json))
		r.Header.Set("Content-Type", "application/json")
		c.err(c.do(r), "JSON that says so", wire.CodeMalformed)
	})
	c.counted(map[wire.Reason]uint64{wire.ExchangeFormat: 4, wire.ExchangeBadMAC: 1})
	d.say(d.block(start, 1, 1))
	if got := d.samples(); len(got) != 1 {
		t.Errorf("samples %v", got)
	}
}

// TestAnotherDevicesName: a device says in every way there is that it is another
// one. Whose a message is, is told by the session alone.
//
// Attacks: A5
func TestAnotherDevicesName(t *testing.T) {
	c := newCloud(t)
	x, y := c.connected("x"), c.connected("y")
	before := fmt.Sprint(c.audit("y"))
	m := x.block(start, 1, 1)
	entry := x.logged(wire.LogEntry{Code: "y", Text: "device y", Attributes: map[string]any{"device": "y", "device_id": "y", "actor": "y", "action": "device.disabled"}})
	if got := statuses(x.say(m, entry)); !slices.Equal(got, []wire.Status{wire.Stored, wire.Stored}) {
		t.Fatalf("statuses %v", got)
	}
	// A key that there is not, as a later version might have, with another's name.
	plain, err := wire.EncodeRequest(wire.Request{At: wire.Instant{Boot: x.boot}, Messages: []wire.Message{x.block(start.Add(1e9), 1, 2)}})
	if err != nil {
		t.Fatal(err)
	}
	named := append([]byte{plain[0] + 1}, plain[1:]...) // a map with one pair more
	named = append(named, 0x18, 0x63, 0x61, 'y')        // 99: "y"
	r := x.sealBody(named)
	if a := x.opened(r, x.send(r)); a.Failure != nil || len(a.Results) != 1 || a.Results[0].Status != wire.Stored {
		t.Fatalf("answer %+v", a)
	}
	if got := x.samples(); len(got) != 2 {
		t.Errorf("x has the samples %v", got)
	}
	if got := y.samples(); len(got) != 0 {
		t.Errorf("y has the samples %v", got)
	}
	if got := c.record("x", "device.log"); got.Device != "x" || got.Actor.Name != "x" || got.Action != "device.log" {
		t.Errorf("record %+v", got)
	}
	if after := fmt.Sprint(c.audit("y")); after != before {
		t.Errorf("the log of y was changed from\n%s\nto\n%s", before, after)
	}
}

// TestBothSidesRepeatThemselves: a random source that repeats itself on both
// sides would make one session twice. Its second making is not stored, even when
// the first HS1 is forgotten, and the first one goes on.
//
// Attacks: H17
func TestBothSidesRepeatThemselves(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	o := c.options()
	o.Random = repeating{}
	g, err := gateway.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.gateway = g
	hello := func() (*noise.Initiator, []byte) {
		i, hs1, err := noise.Initiate(d.key.NoisePSK(wire.Suite1), d.id, d.epoch, bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
		if err != nil {
			t.Fatal(err)
		}
		return i, hs1
	}
	i, hs1 := hello()
	d.finish(i, c.post(wire.PathSession, hs1))
	d.exchange(wire.Request{})
	c.exec(t, `DELETE FROM hs_seen`)
	_, hs1 = hello()
	c.unchanged("the same session again", func() { c.err(c.post(wire.PathSession, hs1), "the same session again", wire.CodeUnavailable) })
	d.exchange(wire.Request{})

	o.Random = rand.Reader
	if c.gateway, err = gateway.New(o); err != nil {
		t.Fatal(err)
	}
	d.connect() // with a good source all is well again
	d.exchange(wire.Request{})
}

// repeating is a random source that says the same whenever it is asked, and
// looks well.
type repeating struct{}

func (repeating) Read(p []byte) (int, error) {
	sum := sha256.Sum256([]byte("said before"))
	for n := 0; n < len(p); n += len(sum) {
		copy(p[n:], sum[:])
	}
	return len(p), nil
}
