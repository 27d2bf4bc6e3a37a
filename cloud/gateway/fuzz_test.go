package gateway_test

import (
	"net/http"
	"testing"

	"ecowatt/wire"
)

// FuzzHandler posts arbitrary bodies to both paths: there is always a well-formed
// answer, never a row.
//
// Attacks: W20
func FuzzHandler(f *testing.F) {
	c := newCloud(f)
	d := c.connected("roof-1")
	_, hs1 := d.hello()
	hs1[79] ^= 1 // the honest one would be accepted
	rsp := d.send(d.seal(wire.Request{}))
	old := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 2, 1)}})
	d.send(old)
	for _, seed := range [][]byte{nil, hs1, old.bytes, rsp.body, []byte("EW"), []byte("EW\x01\x7f\x00\x02\x00\x00"), []byte("<html>"), make([]byte, 300)} {
		f.Add(seed)
	}
	written := c.writes()
	written()
	f.Fuzz(func(t *testing.T, body []byte) {
		c.t = t
		for _, path := range []string{wire.PathSession, wire.PathExchange} {
			got := c.post(path, body)
			c.formal(got, path)
			if e, err := wire.ParseError(got.body); err != nil || e.Code.HTTPStatus() != got.status || got.status == http.StatusOK {
				t.Errorf("%s: %v", path, got)
			}
			if got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized && got.status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: status %d", path, got.status)
			}
		}
		if written() {
			t.Error("something was written")
		}
	})
}

// FuzzBody seals arbitrary bodies as a device that has gone mad would: there is
// always an answer that opens, and the database takes whatever is accepted.
//
// Attacks: W20
func FuzzBody(f *testing.F) {
	c := newCloud(f)
	d := c.connected("roof-1")
	add := func(q wire.Request) {
		body, err := wire.EncodeRequest(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	add(wire.Request{})
	add(wire.Request{
		At: wire.Instant{Boot: d.boot, Mono: 1 << 62}, Wall: &wire.Wall{At: 1 << 62, Uncertainty: 1 << 62},
		Firmware: &wire.Firmware{Release: 1 << 63, State: wire.FirmwareTrial, Version: "\x00"}, MaxAnswer: 1,
		Messages: []wire.Message{d.block(start, 2, 1), d.telemetry(1<<40, 1, 1, &d.boot), d.logged(wire.LogEntry{At: 1 << 62, Attributes: map[string]any{"": nil}})},
	})
	inventory, err := wire.EncodeInventory(wire.Inventory{Inverters: map[string]wire.Inverter{"roof": {Profile: "p"}}})
	if err != nil {
		f.Fatal(err)
	}
	add(wire.Request{Messages: []wire.Message{{ID: wire.MessageID{1}, Kind: wire.KindInventory, Body: inventory}, {ID: wire.MessageID{2}, Kind: 9, Body: []byte{0}}}})
	f.Fuzz(func(t *testing.T, body []byte) {
		c.t = t
		if len(body) > wire.RequestRoom(wire.MaxRequest) {
			t.Skip()
		}
		if d.seq >= wire.MaxSessionRequests {
			c.exec(t, `UPDATE device SET hs_rate = 0`)
			d.connect()
		}
		r := d.sealBody(body)
		a := d.opened(r, d.send(r))
		if _, err := wire.DecodeRequest(body); (err != nil) != (a.Failure != nil) {
			t.Errorf("%v, answered %+v", err, a)
		}
	})
}
