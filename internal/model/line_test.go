package model

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"ecowatt/agent/uplink"
	"ecowatt/wire"
)

// message is one on its way to the cloud.
type message struct {
	path   string
	bytes  []byte
	spoilt bool // it is not as the device sent it
}

// answer is what came back of it.
type answer struct {
	status int
	body   []byte
}

func (a answer) ok() bool { return a.status == http.StatusOK }

// line is what lies between a device and its cloud: somebody who can do with
// messages what he wants, but make them.
type line struct {
	w       *world
	calm    bool      // it is an honest line
	turn    int       // of the replicas, on a calm line
	held    []message // sent, and not there yet
	records []message // all that was ever sent
	answers []answer  // all that was ever answered well
	last    answer    // that the device got
}

// fate is what becomes of a message.
type fate int

const (
	passes      fate = iota
	lost             // it never arrives
	unanswered       // its answer does not
	stolen           // it arrives later, and an ERR that somebody made up comes back
	delayed          // it arrives when nobody waits for it any more
	late             // its answer does
	doubled          // it arrives twice; the device gets the first answer,
	doubledBack      // or the second one
	overtaken        // between what it reads and what it writes another one is served
	mishandled       // its write ends badly
	crashes          // the replica restarts before it has answered
	bent             // it arrives with a bit changed
	answerBent       // its answer does
	oldAnswer        // another answer comes in its place
	refused          // an ERR that somebody made up comes in its place
	portal           // the page of a captive portal does
)

// fates are drawn from; what is there more often happens more often.
var fates = []fate{
	passes, passes, passes, passes, passes, passes, passes, passes, passes, passes,
	lost, unanswered, unanswered, unanswered, delayed, delayed, stolen, stolen, late, doubled, doubledBack,
	overtaken, overtaken, mishandled, mishandled, mishandled, crashes, bent, answerBent, oldAnswer, refused, refused, portal,
}

var fateNames = map[fate]string{
	passes: "passes", lost: "is lost", unanswered: "is not answered", delayed: "is delayed", stolen: "is delayed, and refused by somebody", late: "is answered late",
	doubled: "comes twice", doubledBack: "comes twice, the second answer counts", overtaken: "is overtaken", mishandled: "is mishandled",
	crashes: "crashes the replica", bent: "is bent", answerBent: "gets a bent answer", oldAnswer: "gets an old answer",
	refused: "gets a made-up ERR", portal: "gets the page of a portal",
}

var errNoAnswer = errors.New("nothing comes back")

// Post carries a message of the device, as its fate is.
func (l *line) Post(ctx context.Context, path string, msg []byte, limit int) (uplink.Reply, error) {
	m := message{path: path, bytes: bytes.Clone(msg)}
	l.w.sent(m)
	a, ok := l.carry(m)
	l.records = append(l.records, m)
	if !ok || !l.travel(ctx) {
		l.last = answer{}
		<-ctx.Done()
		return uplink.Reply{}, errNoAnswer
	}
	if len(a.body) > limit {
		a.body = nil
	}
	l.last = a
	return uplink.Reply{Status: a.status, Body: bytes.Clone(a.body)}, nil
}

// travel lets the time pass that a message and its answer take, and reports
// whether the device still waits.
func (l *line) travel(ctx context.Context) bool {
	time.Sleep(50 * time.Millisecond)
	return ctx.Err() == nil
}

// carry does with a message what its fate is, and returns the answer that the
// device gets, if any.
func (l *line) carry(m message) (a answer, ok bool) {
	if l.calm {
		l.turn++
		return l.deliver(m, l.turn%2), true
	}
	f := choose(l.w, "fate", fates)
	at := l.replica()
	l.w.Logf("%v %v at %d", m.name(), fateNames[f], at)
	switch f {
	case passes:
	case lost:
		return answer{}, false
	case delayed:
		l.held = append(l.held, m)
		return answer{}, false
	case stolen:
		l.held = append(l.held, m)
		return l.refusal(), true
	case unanswered:
		l.deliver(m, at)
		return answer{}, false
	case late:
		a := l.deliver(m, at)
		time.Sleep(choose(l.w, "how late", []time.Duration{10 * time.Second, wire.AnswerTime + time.Second}))
		return a, true
	case doubled:
		a := l.deliver(m, at)
		l.deliver(m, 1-at)
		return a, true
	case doubledBack:
		l.deliver(m, at)
		at = 1 - at
	case overtaken:
		l.w.cloud.replicas[at].meanwhile = l.meanwhile(m, at)
	case mishandled:
		l.w.cloud.replicas[at].mishap = choose(l.w, "how the write ends", []outcome{twice, unknown, twice, rejected})
	case crashes:
		l.deliver(m, at)
		l.w.cloud.replicas[at].restart()
		return answer{}, false
	case bent:
		m = message{path: m.path, bytes: l.bend(m.bytes), spoilt: true}
	case answerBent:
		a := l.deliver(m, at)
		return answer{a.status, l.bend(a.body)}, true
	case oldAnswer:
		if len(l.answers) > 0 {
			return l.answers[l.which("answer", len(l.answers))], true
		}
	case refused:
		return l.refusal(), true
	case portal:
		return answer{http.StatusOK, []byte("<html>Please log in</html>")}, true
	}
	return l.deliver(m, at), true
}

// which draws one of n, the newest first.
func (l *line) which(what string, n int) int {
	return n - 1 - l.w.pick(what, n)
}

func (l *line) replica() int { return l.w.pick("replica", 2) }

// refusal is an ERR that anybody can make up.
func (l *line) refusal() answer {
	code := choose(l.w, "code", []wire.Code{wire.CodeRefused, wire.CodeRefused, wire.CodeRefused, wire.CodeBusy, wire.CodeUnavailable, wire.CodeMalformed, wire.CodeTooLarge})
	wait := choose(l.w, "retry after", []time.Duration{0, time.Minute, 18 * time.Hour})
	return answer{code.HTTPStatus(), wire.ErrorMessage{Code: code, RetryAfter: wait}.Append(nil)}
}

// bend changes one bit.
func (l *line) bend(b []byte) []byte {
	b = bytes.Clone(b)
	i := l.w.pick("bit", len(b)*8)
	b[i/8] ^= 1 << (i % 8)
	return b
}

// meanwhile is what happens while a replica serves a message: the other one
// serves a copy of it, what was held back, or anything that was ever sent.
func (l *line) meanwhile(m message, at int) func() {
	others := append([]message{m}, l.held...)
	if l.w.pick("anything in between", 3) == 1 {
		others = append(others, l.records...)
	}
	return func() {
		other := choose(l.w, "in between", others)
		l.w.Logf("in between %v at %d", other.name(), 1-at)
		l.deliver(other, 1-at)
	}
}

// deliver brings a message to a replica, and takes note of the answer.
func (l *line) deliver(m message, at int) answer {
	r := l.w.cloud.replicas[at]
	excused := r.mishap != durable
	a := r.serve(m)
	r.meanwhile, r.mishap = nil, durable
	if e, err := wire.ParseError(a.body); err == nil && e.Code == wire.CodeUnavailable && !excused {
		l.w.Fatalf("%s: a part of the cloud fails", m.name())
	}
	l.w.answered(m, a)
	if a.ok() {
		l.answers = append(l.answers, a)
	}
	return a
}

// arrive delivers a message that was held back; in whichever order they arrive.
func (l *line) arrive() {
	if len(l.held) == 0 {
		return
	}
	i := l.w.pick("held", len(l.held))
	m := l.held[i]
	l.held = append(l.held[:i:i], l.held[i+1:]...)
	at := l.replica()
	l.w.Logf("%v arrives at %d", m.name(), at)
	l.deliver(m, at)
}

// replay delivers anything that was ever sent.
func (l *line) replay() {
	if len(l.records) == 0 {
		return
	}
	m, at := l.records[l.which("record", len(l.records))], l.replica()
	l.w.Logf("%v is replayed at %d", m.name(), at)
	l.deliver(m, at)
}
