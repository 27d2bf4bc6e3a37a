package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"ecowatt/cloud/command"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/registry"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// holding makes a gateway that holds answers back for so long, and returns what
// makes it drain.
func (c *cloud) holding(most time.Duration) (drain func()) {
	c.t.Helper()
	draining := make(chan struct{})
	o := c.options()
	o.Hold, o.Draining = most, draining
	g, err := gateway.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.gateway = g
	return func() { close(draining) }
}

// ask sends a request that lets its answer be held for a minute, and returns
// where that will arrive.
func (d *device) ask(ctx context.Context, messages ...wire.Message) (request, <-chan reply) {
	d.t.Helper()
	r := d.seal(wire.Request{Hold: time.Minute, Messages: messages})
	answers := make(chan reply, 1)
	q := httptest.NewRequestWithContext(ctx, http.MethodPost, wire.PathExchange, bytes.NewReader(r.bytes))
	q.Header.Set("Content-Type", wire.ContentType)
	go func() { answers <- d.do(q) }()
	return r, answers
}

// soon is the answer, which comes long before the hold ends.
func (d *device) soon(r request, answers <-chan reply) wire.Answer {
	d.t.Helper()
	select {
	case got := <-answers:
		return d.opened(r, got)
	case <-time.After(10 * time.Second):
		d.t.Fatal("the answer is held")
		return wire.Answer{}
	}
}

// held waits until so many answers are held back.
func (c *cloud) held(n int) {
	c.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for patience := time.After(10 * time.Second); c.gateway.Held() != n; {
		select {
		case <-look.C:
		case <-patience:
			c.t.Fatalf("%d answers are held, want %d", c.gateway.Held(), n)
		}
	}
}

// An answer that is held back goes out with the command, which is delivered then.
func TestHoldWakes(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.holding(gateway.DefaultHold)
	r, answers := d.ask(t.Context())
	c.held(1)
	c.wait(5 * time.Second) // the answer tells the time at which it is sent
	x := d.queue(restart, time.Minute)
	a := d.soon(r, answers)
	if got := told(a); len(got) != 1 || got[0] != x.ID || a.ServerTime != c.time().UnixMilli() {
		t.Errorf("told %v at %d", got, a.ServerTime)
	}
	d.hasState(x.ID, "delivered")
	c.held(0)
	// Who asks while there is something is answered at once.
	r, answers = d.ask(t.Context())
	if got := told(d.soon(r, answers)); len(got) != 1 {
		t.Errorf("told %v", got)
	}
}

// An answer that was held back tells the next exchange as any other does, also
// when it is the one that brings another interval.
func TestHoldTellsTheNextSlot(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.set(parameter.Values{"upload_interval": int64(60)})
	d.exchange(wire.Request{})
	d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"upload_interval"}})
	c.holding(gateway.DefaultHold)
	r, answers := d.ask(t.Context())
	c.held(1)
	x := d.queue(restart, time.Minute)
	if a := d.soon(r, answers); len(a.Commands) != 1 || a.NextSlot != time.Minute {
		t.Errorf("next exchange in %v", a.NextSlot)
	}
	d.say(d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}))
	r, answers = d.ask(t.Context())
	c.held(1)
	d.set(parameter.Values{"upload_interval": int64(90)})
	c.gateway.Wake("roof-1")
	if a := d.soon(r, answers); a.Config == nil || a.NextSlot != 0 {
		t.Errorf("%+v", a)
	}
}

// A key that is to be offered wakes as well; somebody else's command does not.
func TestHoldWakesForAKey(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof-1"), c.connected("roof-2")
	c.holding(gateway.DefaultHold)
	r, answers := d.ask(t.Context())
	c.held(1)
	other.queue(restart, time.Minute)
	c.gateway.Wake("roof-1") // for nothing
	c.order(d.name, registry.RotationRequest{})
	c.gateway.Wake("roof-1")
	if a := d.soon(r, answers); a.KeyOffer == nil || len(a.Commands) != 0 {
		t.Errorf("%+v", a)
	}
}

// What ends a wait without anything to say, and what does not begin one.
func TestHoldEnds(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	drain := c.holding(gateway.MaxHold)
	empty := func(r request, answers <-chan reply) {
		t.Helper()
		if a := d.soon(r, answers); len(a.Commands)+len(a.Results) != 0 {
			t.Errorf("%+v", a)
		}
	}
	r, answers := d.ask(t.Context())
	c.held(1)
	d.exchange(wire.Request{}) // the next request of the device
	empty(r, answers)

	ctx, cancel := context.WithCancel(t.Context())
	_, answers = d.ask(ctx)
	c.held(1)
	cancel() // the device goes away
	c.err(<-answers, "a wait that was given up", wire.CodeUnavailable)
	c.held(0)

	if got := d.say(d.block(start, 1, 1)); len(got) != 1 { // results are told at once
		t.Error(got)
	}
	r, answers = d.ask(t.Context(), d.block(start, 2, 7))
	if a := d.soon(r, answers); len(a.Results) != 1 {
		t.Errorf("%+v", a)
	}

	r, answers = d.ask(t.Context())
	c.held(1)
	d.connect() // a new session, whose first request ends the old one
	d.exchange(wire.Request{})
	empty(r, answers)

	r, answers = d.ask(t.Context())
	c.held(1)
	drain()
	empty(r, answers)
	c.held(0)

	c.holding(time.Millisecond)
	r, answers = d.ask(t.Context())
	empty(r, answers)
	c.holding(0)
	r, answers = d.ask(t.Context())
	empty(r, answers)
}

// A command that is queued at any moment of a request that waits is never missed.
func TestHoldMissesNothing(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.holding(gateway.MaxHold)
	for range 100 {
		r, answers := d.ask(t.Context())
		x := d.queue(restart, time.Minute)
		if ids := told(d.soon(r, answers)); len(ids) != 1 || ids[0] != x.ID {
			t.Fatalf("told %v", ids)
		}
		d.say(d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}))
	}
}

// afterCommit does something between a commit and what follows it, once.
type afterCommit struct {
	countingStore
	do func()
}

func (s *afterCommit) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	err := s.Store.Commit(ctx, unit)
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return err
}

// What is queued between the commit of a request and the beginning of its wait is
// not missed either. A request that another one has followed by then is told
// nothing: that one is.
func TestHoldListensBeforeItsCommit(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	between := &afterCommit{countingStore: countingStore{Store: gateway.Of(c.store), cloud: c}}
	o := c.options()
	o.Store, o.Hold = between, gateway.MaxHold
	g, err := gateway.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.gateway = g
	var x command.Command
	between.do = func() { x = d.queue(restart, time.Minute) }
	r, answers := d.ask(t.Context())
	if ids := told(d.soon(r, answers)); len(ids) != 1 || ids[0] != x.ID {
		t.Errorf("told %v", ids)
	}
	d.say(d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}))

	between.do = func() {
		between.do = func() { x = d.queue(restart, time.Minute) } // after the later request has read what there is
		if a := d.exchange(wire.Request{}); len(a.Commands) != 0 {
			t.Errorf("told %v", told(a))
		}
	}
	r, answers = d.ask(t.Context())
	if ids := told(d.soon(r, answers)); len(ids) != 0 {
		t.Errorf("told %v", ids)
	}
	d.hasState(x.ID, "queued")
}

// Over a real connection the server's own bounds do not end the wait, a device
// that hangs up is noticed, and its memory is given back.
func TestHoldOverHTTP(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.holding(gateway.MaxHold)
	server := httptest.NewUnstartedServer(c.gateway)
	const bound = 50 * time.Millisecond
	server.Config.ReadTimeout, server.Config.WriteTimeout = bound, bound
	server.Start()
	defer server.Close()
	post := func(ctx context.Context, msg []byte) ([]byte, error) {
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+wire.PathExchange, bytes.NewReader(msg))
		if err != nil {
			return nil, err
		}
		q.Header.Set("Content-Type", wire.ContentType)
		response, err := server.Client().Do(q)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		return io.ReadAll(response.Body)
	}
	r := d.seal(wire.Request{Hold: time.Minute})
	answers := make(chan []byte, 1)
	go func() {
		body, err := post(t.Context(), r.bytes)
		if err != nil {
			t.Error(err)
		}
		answers <- body
	}()
	c.held(1)
	<-time.After(4 * bound) // which do not count any more
	x := d.queue(restart, time.Minute)
	body := <-answers
	header := http.Header{"Content-Type": {wire.ContentType}, "Cache-Control": {"no-store"}, "Content-Length": {strconv.Itoa(len(body))}}
	if ids := told(d.opened(r, reply{http.StatusOK, header, body})); len(ids) != 1 || ids[0] != x.ID {
		t.Errorf("told %v", ids)
	}
	d.say(d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}))

	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, _ = post(ctx, d.seal(wire.Request{Hold: time.Minute}).bytes) }()
	c.held(1)
	cancel()
	c.held(0)
}
