package gateway

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// DefaultHandshakeRate is how many handshakes a second each address may begin
// where nothing else is said.
const DefaultHandshakeRate = 20

// burstTime is for how long an address that has been quiet may go at any pace:
// at once it may begin as many handshakes as the rate grants in that time.
const burstTime = 5 * time.Second

// The table of addresses: 768 KiB, whatever comes.
const (
	limitSets = 4096
	limitWays = 8
)

// limiter limits how often each address begins a handshake, before anything of
// it is read. Its table has a fixed size: where a set is full, the address that
// has the least to wait for gives its place. So a flood of addresses can win
// nothing but a full bucket for each, and can keep nobody out.
type limiter struct {
	rate  float64 // handshakes a second and address
	seed  maphash.Seed
	since time.Time // what times count from, with the monotonic clock where there is one

	mu    sync.Mutex
	table *buckets
}

func newLimiter(rate int, now time.Time) *limiter {
	return &limiter{rate: float64(rate), seed: maphash.MakeSeed(), since: now, table: &buckets{}}
}

// take counts a handshake of an address, and returns 0, or for how long the
// address has to wait before it may begin one.
func (l *limiter) take(address netip.Addr, now time.Time) time.Duration {
	who := sourceOf(address)
	set := maphash.Bytes(l.seed, who[:]) // which nobody outside can choose
	every := time.Duration(float64(time.Second) / l.rate)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.take(who, set, now.Sub(l.since), every)
}

// source is whom a bucket belongs to: an IPv4 address, or a /64 of IPv6, which is
// what one customer of a provider has. The zero source is everybody whose address
// is not known.
type source [16]byte

func sourceOf(a netip.Addr) source {
	a = a.Unmap()
	if !a.IsValid() {
		return source{}
	}
	s := source(a.As16())
	if a.Is6() {
		clear(s[8:])
	}
	return s
}

// buckets is the table of a limiter.
type buckets [limitSets][limitWays]bucket

// bucket is that of one source. full is when all it took will be given back (the
// generic cell rate algorithm); one that is full now says nothing.
type bucket struct {
	who  source
	full time.Duration
}

// take takes a handshake from the bucket of a source, which stands in the set
// that hash names; one is given back in every. It returns 0, or the time until
// there is one to take.
func (t *buckets) take(who source, hash uint64, now, every time.Duration) time.Duration {
	set := &t[hash%limitSets]
	b := &set[0]
	for i := range set {
		if set[i].who == who {
			b = &set[i]
			break
		}
		if set[i].full < b.full {
			b = &set[i]
		}
	}
	owed := now
	if b.who == who {
		owed = max(owed, b.full)
	}
	if wait := owed + every - now - max(burstTime, every); wait > 0 {
		return wait
	}
	*b = bucket{who: who, full: owed + every}
	return 0
}
