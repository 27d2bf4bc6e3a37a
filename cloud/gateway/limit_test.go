package gateway

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

// taken is how many handshakes in a row an address may begin at that time.
func taken(l *limiter, address string, at time.Time) (n int) {
	for l.take(netip.MustParseAddr(address), at) == 0 {
		n++
	}
	return n
}

func TestLimiter(t *testing.T) {
	l := newLimiter(20, noon)
	at := noon
	for _, x := range []struct {
		wait    time.Duration
		address string
		want    int
	}{
		{0, "192.0.2.1", 100},
		{0, "192.0.2.1", 0},
		{0, "192.0.2.2", 100}, // another one
		{0, "::ffff:192.0.2.1", 0},
		{0, "2001:db8:0:1::1", 100},
		{0, "2001:db8:0:1:ffff::2", 0}, // the same /64
		{0, "2001:db8:0:2::1", 100},
		{49 * time.Millisecond, "192.0.2.1", 0},
		{time.Millisecond, "192.0.2.1", 1},
		{time.Second, "192.0.2.1", 20},
		{time.Hour, "192.0.2.1", 100},
		{-2 * time.Hour, "192.0.2.1", 0}, // our clock was put back
	} {
		at = at.Add(x.wait)
		if got := taken(l, x.address, at); got != x.want {
			t.Errorf("after %v: %s may begin %d handshakes, want %d", at.Sub(noon), x.address, got, x.want)
		}
	}
	if wait := l.take(netip.MustParseAddr("2001:db8:0:2::9"), noon.Add(10*time.Millisecond)); wait != 40*time.Millisecond {
		t.Errorf("to wait %v, want 40ms", wait)
	}
	if n := taken(newLimiter(1, noon), "192.0.2.1", noon); n != 5 {
		t.Errorf("%d at once at 1 a second, want 5", n)
	}
}

// TestManyAtTheirLimit: the table has room for many who are at their limit.
func TestManyAtTheirLimit(t *testing.T) {
	l := newLimiter(20, noon)
	const many = 2000
	for round, want := range []int{100, 0} {
		left := 0
		for n := range many {
			if taken(l, fmt.Sprintf("10.0.%d.%d", n>>8, n&0xff), noon) != want {
				left++
			}
		}
		if left > many/100 { // where too many share a set by chance
			t.Errorf("round %d: %d of %d are not limited as they should be", round, left, many)
		}
	}
}

// TestUnknownAddressesShare: who has no address has one bucket with all others.
func TestUnknownAddressesShare(t *testing.T) {
	l := newLimiter(20, noon)
	n := 0
	for l.take(netip.Addr{}, noon) == 0 {
		n++
	}
	if n != 100 {
		t.Errorf("%d handshakes of unknown addresses, want 100", n)
	}
}

// TestFloodOfAddresses: very many addresses cost no memory and keep nobody out.
func TestFloodOfAddresses(t *testing.T) {
	l := newLimiter(20, noon)
	next := netip.MustParseAddr("2001:db8::1").As16()
	n := uint64(0)
	flood := func() {
		n++
		binary.BigEndian.PutUint64(next[:], n)
		if wait := l.take(netip.AddrFrom16(next), noon); wait != 0 {
			t.Fatalf("a new address has to wait %v", wait)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 200_000 {
		flood()
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("200,000 addresses allocate %d bytes", grown)
	}
	if got := taken(l, "192.0.2.1", noon); got < 100 {
		t.Errorf("%d handshakes of somebody else, want 100", got)
	}
}

// TestEmptiestGivesWay: in a full set the place goes to whoever loses least by
// it, so nobody rids himself of his limit by coming from elsewhere.
func TestEmptiestGivesWay(t *testing.T) {
	var table buckets
	take := func(who byte, now time.Duration) time.Duration {
		return table.take(source{who}, 0, now, 50*time.Millisecond)
	}
	for range 100 {
		take(1, 0)
	}
	for range 2 {
		for who := range byte(200) {
			take(who+2, 0)
		}
	}
	if take(1, 0) == 0 {
		t.Error("whoever was at his limit is let in after others came")
	}
	take(255, 6*time.Second)
	for who := range byte(limitWays) {
		take(who, 6*time.Second) // each new one takes the place of one that is full by now
	}
	if len(table[0]) != limitWays || table[0] == [limitWays]bucket{} {
		t.Error("nothing is kept")
	}
	for set := range table[1:] {
		if table[1+set] != [limitWays]bucket{} {
			t.Fatalf("set %d is in use", 1+set)
		}
	}
}

func TestClientOf(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for name, x := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no proxy":                         {"192.0.2.1:99", nil, "192.0.2.1"},
		"a stranger who claims":            {"192.0.2.1:99", []string{"198.51.100.7"}, "192.0.2.1"},
		"a proxy that says nothing":        {"10.0.0.1:99", nil, "10.0.0.1"},
		"a proxy":                          {"10.0.0.1:99", []string{"198.51.100.7"}, "198.51.100.7"},
		"a proxy, after a claim":           {"10.0.0.1:99", []string{"203.0.113.1, 198.51.100.7"}, "198.51.100.7"},
		"a claim to be a proxy":            {"10.0.0.1:99", []string{"203.0.113.1, 10.9.9.9, 198.51.100.7"}, "198.51.100.7"},
		"two proxies":                      {"10.0.0.1:99", []string{"203.0.113.1, 198.51.100.7 ,10.0.0.2"}, "198.51.100.7"},
		"two proxies, in lines":            {"10.0.0.1:99", []string{"203.0.113.1, 198.51.100.7", "10.0.0.2"}, "198.51.100.7"},
		"nothing but proxies":              {"10.0.0.1:99", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"with a port":                      {"10.0.0.1:99", []string{"198.51.100.7:1234"}, "198.51.100.7"},
		"IPv6":                             {"[2001:db8::1]:99", []string{"2001:4860::5"}, "2001:4860::5"},
		"IPv6 in brackets":                 {"[2001:db8::1]:99", []string{"[2001:4860::5]"}, "2001:4860::5"},
		"IPv6 with a port":                 {"[2001:db8::1]:99", []string{"[2001:4860::5]:1234"}, "2001:4860::5"},
		"IPv4 inside IPv6":                 {"[::ffff:10.0.0.1]:99", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"an entry that is none":            {"10.0.0.1:99", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		"an empty entry":                   {"10.0.0.1:99", []string{"198.51.100.7,"}, "10.0.0.1"},
		"an empty line":                    {"10.0.0.1:99", []string{""}, "10.0.0.1"},
		"an entry that is none, before":    {"10.0.0.1:99", []string{"<script>, 10.0.0.2"}, "10.0.0.2"},
		"a connection without an address":  {"@", []string{"198.51.100.7"}, "invalid IP"},
		"a zone":                           {"[fe80::1%eth0]:99", nil, "fe80::1"},
		"more proxies than are looked at":  {"10.0.0.1:99", repeated("10.0.0.2", 100), "10.0.0.2"},
		"the client beyond what is looked": {"10.0.0.1:99", append([]string{"198.51.100.7"}, repeated("10.0.0.2", 16)...), "10.0.0.2"},
	} {
		r := &http.Request{RemoteAddr: x.peer, Header: http.Header{"X-Forwarded-For": x.forwarded}}
		if got := clientOf(r, proxies).String(); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
	r := &http.Request{RemoteAddr: "10.0.0.1:99", Header: http.Header{"X-Forwarded-For": {"198.51.100.7"}}}
	if got := clientOf(r, nil).String(); got != "10.0.0.1" {
		t.Errorf("without trusted proxies: %s", got)
	}
}

func repeated(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func TestTurns(t *testing.T) {
	turns := &turns{taken: make(chan struct{}, 2), room: 3}
	ctx := t.Context()
	for range 2 {
		if !turns.take(ctx) {
			t.Fatal("no turn for the first two")
		}
	}
	got := make(chan bool)
	for range 3 {
		go func() { got <- turns.take(ctx) }()
	}
	for turns.waiting.Load() < 3 {
		runtime.Gosched()
	}
	if turns.take(ctx) {
		t.Error("a sixth waits where there is room for three")
	}
	for range 3 {
		turns.give()
		if !<-got {
			t.Error("somebody who waited gets no turn")
		}
	}
	turns.give()
	turns.give()
	if !turns.take(ctx) || turns.waiting.Load() != 0 {
		t.Error("the turns are not given back")
	}
}
