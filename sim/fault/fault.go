// Package fault says how a simulated inverter misbehaves: a plan of faults that
// come at a time or by chance, and what each of them does to an answer. It has no
// clock and no I/O; the same plan, asked the same, gives the same faults.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is a kind of fault.
type Kind byte

// The kinds. Those from CRC to WrongUnit spoil the frame of an answer to a
// request that was carried out; see Spoil.
const (
	None      Kind = iota
	Exception      // the request is refused with the rule's code, and not carried out
	Drop           // carried out, but not answered
	Late           // answered after the rule's time
	CRC            // the check of the frame is wrong
	Corrupt        // bytes of the frame are others
	Truncate       // the frame ends in the middle
	Double         // the frame is sent twice
	WrongUnit      // the frame says that another unit answers
	Frozen         // a read brings the words of the last read without this fault
	NoEffect       // a write is confirmed and can be read back, and changes nothing
	Revert         // another controller undoes a write after the rule's time
	Deaf           // after a write, nothing is answered for the rule's time
	Asleep         // nothing is answered while the inverter sleeps
	Lost           // neither carried out nor answered
	OneClient      // a connection is closed at once while there is another one; no matter of requests
)

var names = [...]string{
	None: "none", Exception: "exception", Drop: "drop", Late: "late", CRC: "crc", Corrupt: "corrupt", Truncate: "truncate",
	Double: "double", WrongUnit: "wrong_unit", Frozen: "frozen", NoEffect: "no_effect", Revert: "revert", Deaf: "deaf", Asleep: "asleep",
	Lost: "lost", OneClient: "one_client",
}

// Kinds lists all kinds of faults.
func Kinds() []Kind {
	var all []Kind
	for k := range names {
		if Kind(k) != None {
			all = append(all, Kind(k))
		}
	}
	return all
}

func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// timed reports whether a fault of the kind lasts for a time.
func (k Kind) timed() bool { return k == Late || k == Revert || k == Deaf }

// written reports whether only writes can have a fault of the kind.
func (k Kind) written() bool { return k == NoEffect || k == Revert || k == Deaf }

// Rule says when a fault comes.
type Rule struct {
	Kind        Kind
	From, To    time.Duration // of the simulated time since the start; To 0 is for ever
	Probability float64       // of each answer that the rule is about, above 0 and up to 1
	Count       int           // at most so often; 0: any number of times
	Units       []byte        // that misbehave; all when empty
	Functions   []byte        // at which they do; all when empty
	Addresses   []uint16      // of registers, one of which a request is about; all when empty
	Code        byte          // of an Exception
	For         time.Duration // real time, of Late, Revert and Deaf
}

// Request is what a plan knows of a request.
type Request struct {
	Unit, Function byte
	Address        uint16 // of the first register
	Quantity       int
	Write          bool // the function writes
	Sleeps         bool // the inverter sleeps
}

// touches reports whether q is about the register at address, among others.
func (q Request) touches(address uint16) bool {
	return address >= q.Address && int(address) < int(q.Address)+q.Quantity
}

// during reports whether now lies within the times of r.
func (r Rule) during(now time.Duration) bool { return now >= r.From && (r.To == 0 || now < r.To) }

// about reports whether r may come at now at the request q.
func (r Rule) about(now time.Duration, q Request) bool {
	return r.Kind != OneClient && r.during(now) &&
		(len(r.Units) == 0 || slices.Contains(r.Units, q.Unit)) &&
		(len(r.Functions) == 0 || slices.Contains(r.Functions, q.Function)) &&
		(len(r.Addresses) == 0 || slices.ContainsFunc(r.Addresses, q.touches)) &&
		(q.Write || !r.Kind.written()) && (!q.Write || r.Kind != Frozen) &&
		(q.Sleeps || r.Kind != Asleep)
}

// Plan is what rules make of requests. It is for one goroutine.
type Plan struct {
	random *rand.Rand
	rules  []Rule
	used   []int // how often each rule came
}

// NewPlan returns a plan of rules that have passed Check.
func NewPlan(rules []Rule, seed uint64) *Plan {
	p := &Plan{random: rand.New(rand.NewPCG(seed, 0x6661756c74))}
	for _, r := range rules {
		p.Add(r)
	}
	return p
}

// Add makes r the last rule of the plan.
func (p *Plan) Add(r Rule) {
	p.rules = append(p.rules, r)
	p.used = append(p.used, 0)
}

// Insert makes r the first rule of the plan: an order that overrides the others.
func (p *Plan) Insert(r Rule) {
	p.rules = slices.Insert(p.rules, 0, r)
	p.used = slices.Insert(p.used, 0, 0)
}

// Clear removes all rules.
func (p *Plan) Clear() { p.rules, p.used = nil, nil }

// Decide returns the rule that comes at the request q: the first one that is
// about it and has its chance; the zero Rule when none does. Seed is for what
// the rule leaves to chance.
func (p *Plan) Decide(now time.Duration, q Request) (r Rule, seed uint64) {
	for i, r := range p.rules {
		if r.about(now, q) && p.comes(i) {
			return r, p.random.Uint64()
		}
	}
	return Rule{}, 0
}

// OneClient reports whether a rule closes a connection that comes at now beside
// another one.
func (p *Plan) OneClient(now time.Duration) bool {
	for i, r := range p.rules {
		if r.Kind == OneClient && r.during(now) && p.comes(i) {
			return true
		}
	}
	return false
}

// comes gives rule i its chance, and counts it when it comes.
func (p *Plan) comes(i int) bool {
	r := p.rules[i]
	if r.Count > 0 && p.used[i] >= r.Count || r.Probability < 1 && p.random.Float64() >= r.Probability {
		return false
	}
	p.used[i]++
	return true
}

// Frame is a frame to be spoilt, as the transport has made it: the protocol data
// unit stands in Bytes[Head : len(Bytes)-Tail]. Where Tail is not 0, the frame
// ends in a check.
type Frame struct {
	Bytes      []byte
	Head, Tail int
}

// Spoil returns what is sent in place of f by a fault of the kind.
//
// What cannot be told from a good answer is not made here. Modbus TCP has no
// check of its own: there, CRC spoils the protocol number of the header, and
// Corrupt, which flips bits anywhere in a frame that has a check, spoils the
// function. WrongUnit is up to the transport, whose check must fit.
func (k Kind) Spoil(f Frame, seed uint64) []byte {
	b := slices.Clone(f.Bytes)
	random := rand.New(rand.NewPCG(seed, 0))
	switch k {
	case CRC:
		if f.Tail == 0 {
			b[2] ^= 0x5a
			break
		}
		b[len(b)-1] ^= byte(1 + random.IntN(255))
	case Corrupt:
		if f.Tail == 0 {
			b[f.Head] ^= 1 << (3 + random.IntN(4)) // not what marks an exception, nor 03 for 04
			break
		}
		// A burst of up to two bytes, which the check always finds.
		at := f.Head + random.IntN(len(b)-f.Head-1)
		b[at] ^= byte(1 + random.IntN(255))
		b[at+1] ^= byte(random.IntN(256))
	case Truncate:
		b = b[:1+random.IntN(len(b)-1)]
	case Double:
		b = append(b, f.Bytes...)
	case None, Exception, Drop, Late, WrongUnit, Frozen, NoEffect, Revert, Deaf, Asleep, Lost, OneClient:
	}
	return b
}

// Limits of a rule.
const (
	maxFor   = 10 * time.Minute
	maxCount = 1_000_000
)

// Check says what is wrong with r; nil when nothing is.
func (r Rule) Check() error {
	switch {
	case r.Kind == None || int(r.Kind) >= len(names):
		return fmt.Errorf("fault: there is no %v", r.Kind)
	case r.From < 0 || r.To < 0 || r.To > 0 && r.To <= r.From:
		return fmt.Errorf("from, to: from %v to %v is no time after the start", r.From, r.To)
	case !(r.Probability > 0 && r.Probability <= 1):
		return fmt.Errorf("probability: %g is not above 0 and at most 1", r.Probability)
	case r.Count < 0 || r.Count > maxCount:
		return fmt.Errorf("count: %d is not within 0 and %d", r.Count, maxCount)
	case r.Kind == Exception && (r.Code < 1 || r.Code > 0x7f):
		return fmt.Errorf("code: %d is no exception within 1 and 127", r.Code)
	case r.Kind != Exception && r.Code != 0:
		return fmt.Errorf("code: the fault %v has none", r.Kind)
	case r.Kind.timed() && (r.For <= 0 || r.For > maxFor):
		return fmt.Errorf("for: %v is not above 0s and at most %v", r.For, maxFor)
	case r.Kind == OneClient && len(r.Units)+len(r.Functions)+len(r.Addresses) > 0:
		return errors.New("units, functions, addresses: one_client is about connections, not about requests")
	case !r.Kind.timed() && r.For != 0:
		return fmt.Errorf("for: the fault %v has none", r.Kind)
	}
	for _, f := range r.Functions {
		if f != 3 && f != 4 && f != 6 && f != 16 {
			return fmt.Errorf("functions: %d is none of 3, 4, 6 and 16", f)
		}
	}
	return nil
}
