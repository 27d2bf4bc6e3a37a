package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/audit"
)

// Attacks: A6
func TestLog(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1", "--group", "north")
	o.run(0, "device", "add", "roof-2")
	o.report()
	o.run(0, "device", "disable", "roof-2")

	// Oldest first: time, who, device, action, what it says. Control characters
	// are shown, not obeyed.
	const when = `^[-0-9]{10} [:0-9]{8}  `
	all := o.run(0, "log").never("\x1b").talk().out(
		when+`access         —             token\.created       token created role=administrator`,
		when+`administrator  roof-1        device\.added        device added group=north$`,
		when+`administrator  roof-2        device\.added        device added$`,
		`^2026-06-21 10:00:00  roof-1         roof-1        device\.event        inverter�\[2Jaway code=inverter_away inverter=inv1$`,
		when+`administrator  roof-2        device\.changed      device changed disabled=true$`)
	if n := strings.Count(all.stdout, "\n"); n != 5 {
		t.Errorf("%d records, want 5:\n%s", n, all.stdout)
	}
	o.run(0, "log", "--device", "roof-2").out("device added$", "disabled=true$").never("roof-1")
	o.run(0, "log", "--last", "1").out("disabled=true$").never("added")
	o.run(0, "log", "--device", "nobody").out().talk()

	lines := strings.Split(strings.TrimSpace(o.run(0, "log", "--last", "0", "--json").stdout), "\n")
	for i, line := range lines {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.N != int64(i+1) {
			t.Errorf("line %d: %v in %s", i+1, err, line)
		}
	}
	if len(lines) != 5 || !strings.HasSuffix(lines[1], `"actor":{"kind":"operator","name":"administrator"},"device":"roof-1","action":"device.added","text":"device added","attrs":{"group":"north"}}`) {
		t.Errorf("JSON:\n%s", strings.Join(lines, "\n"))
	}
	o.run(2, "log", "--last", "-1").out().talk(`^ecowatt: --last: -1 is not within 0 and 1000000$`)
	o.run(2, "log", "--device", "No Good").out().talk(`not a valid name`)
	o.run(2, "log", "roof-1").out().talk(`^ecowatt: unexpected argument "roof-1"$`)
}

// Following goes on through a restart of the cloud, misses nothing, and ends
// when it is interrupted, as asked for.
func TestLogFollow(t *testing.T) {
	o := newOperator(t)
	data := t.TempDir()
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	address, stop := startCloud(t, data, "127.0.0.1:0")
	o.data = data
	o.env["ECOWATT_URL"], o.env["ECOWATT_TOKEN_FILE"] = "http://"+address, data+"/token"
	o.run(0, "device", "add", "roof-1")

	c := o.command("log", "--follow", "--last", "1")
	stdout, talk := pipe(t), pipe(t)
	c.Stdout, c.Stderr = stdout.in, talk.in
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	stdout.line("roof-1 .*device added")
	o.run(0, "device", "add", "roof-2")
	stdout.line("roof-2 .*device added")
	began := time.Now()
	stop()
	if took := time.Since(began); took > logWait*time.Second/2 {
		t.Errorf("who follows holds up the stop of the cloud for %v", took)
	}
	talk.line("does not answer: .*; asking again")
	_, stop = startCloud(t, data, address)
	defer stop()
	talk.line("the cloud answers again")
	o.run(0, "device", "add", "roof-3")
	stdout.line("roof-3 .*device added")
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("interrupted, it ends with %v", err)
	}
	if rest := stdout.rest(); rest != "" {
		t.Errorf("it says more than once:\n%s", rest)
	}
}

// Who may not follow is told so at once, also when the token is lost on the way.
func TestLogFollowRefused(t *testing.T) {
	answers := []struct {
		status int
		body   string
	}{
		{http.StatusOK, `{"records":[],"next":0}`},
		{http.StatusServiceUnavailable, `{"detail":"try again"}`},
		{http.StatusUnauthorized, `{"detail":"a valid token is needed"}`},
	}
	asked := 0
	c := fakeCloud(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(answers[asked].status)
		if _, err := io.WriteString(w, answers[asked].body); err != nil {
			t.Error(err)
		}
		asked++
	})
	var talk strings.Builder
	r := &logReader{cloud: c, query: map[string][]string{}, talk: &talk}
	err := r.read(t.Context())
	if err == nil {
		err = r.follow(t.Context())
	}
	if codeOf(err) != exitRefused || asked != 3 {
		t.Errorf("after %d requests: %v, want to be refused by the third", asked, err)
	}
	if want := "try again; asking again\n"; talk.String() != want {
		t.Errorf("says %q, want %q", &talk, want)
	}
}

// What cannot be shown ends the command: nobody reads it.
func TestLogFollowNobodyReads(t *testing.T) {
	c := fakeCloud(t, func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, `{"records":[{"n":1}],"next":1}`); err != nil {
			t.Error(err)
		}
	})
	r := &logReader{cloud: c, query: map[string][]string{}, talk: io.Discard, show: func(audit.Record) error { return io.ErrClosedPipe }}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.follow(ctx); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("ends with %v, want %v", err, io.ErrClosedPipe)
	}
}

// lines is a pipe of which a test reads lines.
type lines struct {
	t  *testing.T
	in *os.File
	r  *bufio.Reader
}

func pipe(t *testing.T) *lines {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { errors.Join(in.Close(), out.Close()) })
	return &lines{t: t, in: in, r: bufio.NewReader(out)}
}

// line reads the next line, which the pattern must be found in.
func (l *lines) line(pattern string) {
	l.t.Helper()
	text, err := l.r.ReadString('\n')
	if err != nil {
		l.t.Fatalf("waiting for %q: %v", pattern, err)
	}
	(said{t: l.t, command: "ecowatt log --follow", stdout: text}).out(pattern)
}

// rest is what comes after the program has ended.
func (l *lines) rest() string {
	l.t.Helper()
	if err := l.in.Close(); err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(l.r)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}
