package gateway_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ecowatt/wire"
)

// lossy is a device on a line that loses, repeats and reorders, and the model of
// what the cloud must have of it.
type lossy struct {
	*device
	rt      *rapid.T
	queue   []wire.Message // not settled, oldest first
	values  map[wire.MessageID]int64
	made    int64
	stored  []int64 // the values whose messages took effect, in that order
	wire    []request
	carries map[wire.SessionID]map[wire.Sequence][]wire.Message
	highest map[wire.SessionID]wire.Sequence // accepted of each session
	alive   map[wire.SessionID]int           // handshake number of the sessions that are not superseded
	number  int
}

// TestEveryMessageTakesEffectOnce runs random sequences of handshakes, requests,
// lost answers, repetitions in any order and restarts of the cloud, and compares
// each answer with a model and, at the end, the samples with the messages.
//
// Attacks: R1, R2, R5, O6
func TestEveryMessageTakesEffectOnce(t *testing.T) {
	c := newCloud(t)
	devices := 0
	rapid.Check(t, func(rt *rapid.T) {
		devices++
		x := &lossy{
			device: c.add(fmt.Sprintf("d%d", devices)), rt: rt, values: map[wire.MessageID]int64{},
			carries: map[wire.SessionID]map[wire.Sequence][]wire.Message{},
			highest: map[wire.SessionID]wire.Sequence{}, alive: map[wire.SessionID]int{},
		}
		x.handshake()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"send", "send", "send", "deliver", "deliver", "handshake", "sample", "sample", "restart"}).Draw(rt, "step") {
			case "send":
				x.send()
			case "deliver":
				x.deliver(rapid.IntRange(0, len(x.wire)).Draw(rt, "which"), rapid.Bool().Draw(rt, "answered"))
			case "handshake":
				x.handshake()
			case "sample":
				x.sample()
			case "restart":
				if rapid.IntRange(0, 4).Draw(rt, "whether") == 0 {
					c.restart()
				}
			}
		}
		x.settle()
	})
}

func (x *lossy) sample() {
	x.made++
	m := x.block(start.Add(time.Duration(x.made)*time.Second), 1, x.made)
	x.values[m.ID] = x.made
	x.queue = append(x.queue, m)
}

// handshake gives up the session for another one. What is on its way in the old
// one may still arrive.
func (x *lossy) handshake() {
	x.wait(time.Minute)
	x.connect()
	x.number++
	x.alive[x.SID] = x.number
	x.carries[x.SID] = map[wire.Sequence][]wire.Message{}
	// Sessions that wait for more than 120 s are gone, and so are those before
	// the eight newest; the device waits a minute for each handshake.
	for sid, n := range x.alive {
		if x.highest[sid] == 0 && n <= x.number-2 {
			delete(x.alive, sid)
		}
	}
}

// send puts a request with the whole queue on its way, where it stays to be
// delivered any number of times.
func (x *lossy) send() {
	r := x.seal(wire.Request{Messages: slices.Clone(x.queue)})
	x.carries[r.keys.SID][r.seq] = slices.Clone(x.queue)
	x.wire = append(x.wire, r)
	x.deliver(len(x.wire)-1, rapid.Bool().Draw(x.rt, "answered"))
}

// deliver brings one request to the cloud and, perhaps, the answer back.
func (x *lossy) deliver(i int, answered bool) {
	if i >= len(x.wire) {
		return
	}
	r := x.wire[i]
	sid := r.keys.SID
	n, alive := x.alive[sid]
	accept := alive && r.seq > x.highest[sid]
	got := x.post(wire.PathExchange, r.bytes)
	if !accept {
		x.refused(got, fmt.Sprintf("request %d of handshake %d", r.seq, n))
		return
	}
	x.highest[sid] = r.seq
	for other, m := range x.alive {
		if m < n {
			delete(x.alive, other)
		}
	}
	a := x.opened(r, got)
	for k, m := range x.carries[sid][r.seq] {
		want := wire.Duplicate
		if v := x.values[m.ID]; !slices.Contains(x.stored, v) {
			want = wire.Stored
			x.stored = append(x.stored, v)
		}
		if a.Results[k].ID != m.ID || a.Results[k].Status != want {
			x.rt.Fatalf("request %d: %+v, want %v", r.seq, a.Results[k], want)
		}
	}
	if answered {
		for _, result := range a.Results {
			x.queue = slices.DeleteFunc(x.queue, func(m wire.Message) bool { return m.ID == result.ID })
		}
	}
}

// settle lets the device finish, and compares.
func (x *lossy) settle() {
	x.handshake()
	r := x.seal(wire.Request{Messages: slices.Clone(x.queue)})
	x.carries[r.keys.SID][r.seq] = slices.Clone(x.queue)
	x.wire = append(x.wire, r)
	x.deliver(len(x.wire)-1, true)
	want := make([]string, 0, x.made)
	for v := range x.made {
		want = append(want, fmt.Sprintf("%s pac=%d", start.Add(time.Duration(v+1)*time.Second).Format(time.TimeOnly), v+1))
	}
	if got := x.samples(); !slices.Equal(got, want) || len(x.queue) != 0 {
		x.rt.Fatalf("samples %v, want %v; %d messages wait", got, want, len(x.queue))
	}
}
