package e2e

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
)

const (
	session  = "/v1/session"
	exchange = "/v1/exchange"
)

// refusal is the one answer to every failure of authentication.
var refusal = []byte{'E', 'W', 1, 0x7f, 0, 2, 0, 0}

// refused checks that a message gets the ERR 2.
func (l *line) refused(t *testing.T, what, path string, body []byte) {
	t.Helper()
	if a := l.post(t, path, body); a.status != http.StatusUnauthorized || !bytes.Equal(a.body, refusal) {
		t.Errorf("%s: %d %x", what, a.status, a.body)
	}
}

// malformed checks that a message gets the ERR 1.
func (l *line) malformed(t *testing.T, what, path string, body []byte) {
	t.Helper()
	if a := l.post(t, path, body); a.status != http.StatusBadRequest || len(a.body) != 8 || a.body[5] != 1 {
		t.Errorf("%s: %d %x", what, a.status, a.body)
	}
}

// replay sends everything that was recorded before now, all of which must be
// refused.
func (l *line) replay(t *testing.T, when string) {
	t.Helper()
	passed := map[string][][]byte{session: l.recorded(session), exchange: l.recorded(exchange)}
	l.quiet(t) // so that all of these have arrived
	for path, bodies := range passed {
		for i, body := range bodies {
			l.refused(t, fmt.Sprintf("%s: message %d to %s again", when, i, path), path, body)
		}
	}
}

// await waits until done is closed.
func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited for long: %s", what)
	}
}

// drained waits until a gateway has sent everything.
func (f *fleet) drained(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" has sent everything", func() bool {
		s, ok := f.status(t, name)
		return ok && s.Buffer.Samples == 0 && s.Buffer.Messages == 0
	})
}

// once is a meddler for one request to exchange, whichever comes first; what it
// returns goes to the device. done is closed after it.
func (l *line) once(m meddler) (done chan struct{}) {
	done = make(chan struct{})
	var first sync.Once
	l.setMeddle(func(path string, body []byte, ask func() (reply, bool)) (a reply, whole bool) {
		mine := false
		if path == exchange {
			first.Do(func() { mine = true })
		}
		if !mine {
			return ask()
		}
		defer close(done)
		return m(path, body, ask)
	})
	return done
}

// TestKilledAroundTheCommit kills the cloud after it has committed a request and
// before the device has the answer; then while a request is half there, whose
// bytes come again. Everything has one effect. Then the device is killed.
//
// Attacks: R4, R5, R6, O1, O6
func TestKilledAroundTheCommit(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	l := newLine(t, f.cloudAddr)
	f.through(t, l, "roof-1")
	f.startRoof(t, "roof-1")
	eventually(t, "two exchanges", func() bool { return len(l.recorded(exchange)) >= 2 })

	// Committed and answered, but nobody gets to know.
	var committed []byte
	f.awaitServed(t, 1)
	await(t, "the next request", l.once(func(_ string, body []byte, ask func() (reply, bool)) (reply, bool) {
		committed = body
		if a, whole := ask(); !whole || a.status != http.StatusOK {
			t.Errorf("a request is answered %d", a.status)
		}
		f.cloud.kill(t)
		return reply{}, false
	}))
	f.startCloud(t)
	l.refused(t, "committed before the cloud was killed", exchange, committed)
	f.awaitServed(t, 2)
	f.drained(t, "roof-1")

	// Half of it arrives, and the same bytes again when the cloud is back.
	f.awaitServed(t, 1)
	await(t, "the next request", l.once(func(_ string, body []byte, _ func() (reply, bool)) (reply, bool) {
		conn, err := net.Dial("tcp", f.cloudAddr)
		if err != nil {
			t.Error(err)
			return reply{}, false
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.ecowatt.v1\r\nContent-Length: %d\r\n\r\n", exchange, len(body))
		conn.Write(body[:len(body)/2])
		f.cloud.kill(t)
		f.startCloud(t)
		if a := l.post(t, exchange, body); a.status != http.StatusOK {
			t.Errorf("what was lost with the cloud is answered %d when it comes again", a.status)
		}
		l.refused(t, "a third time", exchange, body)
		return reply{}, false // so the device sends its messages under another number
	}))
	f.awaitServed(t, 2)
	f.drained(t, "roof-1")
	l.replay(t, "after the cloud was killed")

	f.killRoof(t, "roof-1", false)
	f.awaitServed(t, 2)
	f.sim.stop(t)
	f.drained(t, "roof-1")
	l.replay(t, "after the device was killed")
	f.compare(t, "roof-1", 17, f.readTrace(t), 1)
	f.launchers["roof-1"].stop(t)
	f.cloud.stop(t)
}

// TestFaultsOfTheFirstSystem does to real programs what the first system fell
// for, and in the end everything that was served is stored, once.
//
// Attacks: O2, O3, O4, O5, O7, O10, O12, O14
func TestFaultsOfTheFirstSystem(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	l := newLine(t, f.cloudAddr)
	for _, name := range f.roofs {
		f.through(t, l, name)
		f.startRoof(t, name)
	}
	sessions := func() map[string]bool {
		all := map[string]bool{}
		for _, body := range l.recorded(exchange) {
			all[string(body[8:24])] = true
		}
		return all
	}
	eventually(t, "two sessions", func() bool { return len(sessions()) == 2 })

	// A request that has not arrived yet, and everything but that is tried first.
	await(t, "the next request", l.once(func(_ string, body []byte, _ func() (reply, bool)) (reply, bool) {
		for other := range sessions() {
			if other != string(body[8:24]) {
				moved := bytes.Clone(body)
				copy(moved[8:24], other)
				l.refused(t, "under the other device's session", exchange, moved)
			}
		}
		l.malformed(t, "without its HMAC", exchange, body[:len(body)-32])
		l.malformed(t, "JSON of the first system", exchange, []byte(`{"device_id":"roof-1","nonce":1,"payload":"AAEC"}`))
		blank := bytes.Clone(body)
		clear(blank[len(blank)-48:])
		l.refused(t, "with zeros for tag and HMAC", exchange, blank)
		for _, n := range []uint64{1 << 62, 1<<62 + 1, 1<<64 - 1} {
			far := bytes.Clone(body)
			binary.BigEndian.PutUint64(far[24:], n)
			if a := l.post(t, exchange, far); a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest {
				t.Errorf("with the number %d: %d", n, a.status)
			}
		}
		copies := make([]reply, 16)
		var wait sync.WaitGroup
		for i := range copies {
			wait.Go(func() { copies[i] = l.post(t, exchange, body) })
		}
		wait.Wait()
		var accepted []reply
		for _, a := range copies {
			if a.status == http.StatusOK {
				accepted = append(accepted, a)
			} else if a.status != http.StatusUnauthorized || !bytes.Equal(a.body, refusal) {
				t.Errorf("a copy is answered %d %x", a.status, a.body)
			}
		}
		if len(accepted) != 1 {
			t.Errorf("%d of %d copies were accepted", len(accepted), len(copies))
			return reply{}, false
		}
		return accepted[0], true
	}))
	f.strangersAtTheAPI(t)
	f.lockedDatabase(t, l)

	f.awaitServed(t, 4)
	f.sim.stop(t)
	for i, name := range f.roofs {
		f.drained(t, name)
		f.compare(t, name, 17+i, f.readTrace(t), 1)
		f.launchers[name].stop(t)
	}
	f.cloud.stop(t)
}

// strangersAtTheAPI asks for everything that the API can do without a token, and
// for what the first system let strangers do.
func (f *fleet) strangersAtTheAPI(t *testing.T) {
	t.Helper()
	for _, r := range []struct{ method, path string }{
		{"GET", "/api/v1/devices"},
		{"POST", "/api/v1/devices"},
		{"GET", "/api/v1/devices/roof-1"},
		{"PATCH", "/api/v1/devices/roof-1"},
		{"GET", "/api/v1/devices/roof-1/telemetry"},
		{"GET", "/api/v1/devices/roof-1/telemetry.csv"},
		{"GET", "/api/v1/devices/roof-1/events"},
		{"GET", "/api/v1/audit"},
		{"GET", "/metrics"},
	} {
		a, err := send(t.Context(), f.cloudAddr, r.method, r.path, []byte(`{"id":"x","disabled":true}`), http.Header{"Content-Type": {"application/json"}})
		if err != nil || a.status != http.StatusUnauthorized {
			t.Errorf("%s %s without a token: %d, %v", r.method, r.path, a.status, err)
		}
	}
	for _, path := range []string{"/reset", "/nonce", "/api/v1/devices/roof-1/nonce", "/api/v1/devices/roof-1/sessions", "/command", "/config"} {
		for _, method := range []string{"POST", "DELETE"} {
			if a, err := send(t.Context(), f.cloudAddr, method, path, nil, http.Header{}); err != nil || a.status < 400 || a.status == http.StatusInternalServerError {
				t.Errorf("%s %s: %d, %v", method, path, a.status, err)
			}
		}
	}
}

// lockedDatabase holds the database until a device was told that the cloud
// cannot store, and looks whether that was true.
func (f *fleet) lockedDatabase(t *testing.T, l *line) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(f.dir, "cloud", "ecowatt.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	count := func() (n int) {
		t.Helper()
		if err := conn.QueryRowContext(t.Context(), `SELECT count(*) FROM message`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	before := count()
	told := make(chan struct{})
	var first sync.Once
	var acknowledged atomic.Int32
	l.setMeddle(func(path string, _ []byte, ask func() (reply, bool)) (reply, bool) {
		a, whole := ask()
		switch {
		case path != exchange || !whole:
		case a.status == http.StatusOK:
			acknowledged.Add(1)
		case a.status == http.StatusServiceUnavailable:
			first.Do(func() { close(told) })
		}
		return a, whole
	})
	await(t, "a device is told that nothing can be stored", told)
	l.setMeddle(nil)
	if n := acknowledged.Load(); n != 0 {
		t.Errorf("%d requests were acknowledged while the database was locked", n)
	}
	if after := count(); after != before {
		t.Errorf("%d messages were stored while the database was locked", after-before)
	}
	if _, err := conn.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
}
