package api

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/access"
)

// heard is an answer that does not end by itself.
type heard struct {
	status int
	header http.Header
	body   *bufio.Reader
	leave  func()
}

// stream asks to be told what happens.
func (c *cloud) stream(ctx context.Context, path string, header ...string) heard {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.tokens[access.Viewer])
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	leave := func() { resp.Body.Close() }
	c.t.Cleanup(leave)
	return heard{resp.StatusCode, resp.Header, bufio.NewReader(resp.Body), leave}
}

// event reads the next event: its id, name and data, as they came.
func event(t *testing.T, r *bufio.Reader) (lines []string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && len(lines) > 0:
			return lines
		case line != "" && !strings.HasPrefix(line, ":"):
			lines = append(lines, line)
		}
	}
}

// Who listens is told what happens, of one device or of all, and goes on where he
// was when he comes again. The server's stop ends it.
func TestEvents(t *testing.T) {
	draining := make(chan struct{})
	c := newCloud(t, func(o *Options) { o.Draining = draining })
	c.add("roof-1", "")
	c.add("roof-2", "")
	resp := c.stream(t.Context(), "/api/v1/devices/roof-1/events")
	if resp.status != http.StatusOK || resp.header.Get("Content-Type") != "text/event-stream" || resp.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", resp.status, resp.header)
	}
	r := resp.body
	if line, err := r.ReadString('\n'); err != nil || line != ": listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.appendRecords("roof-2", "other.thing")
	c.put("/api/v1/devices/roof-1/config", `{"log_level":"warn"}`)
	set := event(t, r)
	if set[1] != "event: config.set" || !strings.Contains(set[2], `"log_level":"warn"`) || !strings.HasPrefix(set[0], "id: ") {
		t.Errorf("%q", set)
	}
	changed := event(t, r)
	if changed[1] != "event: config.changed" || !strings.Contains(changed[2], `"revision":"1"`) {
		t.Errorf("%q", changed)
	}
	again := c.stream(t.Context(), "/api/v1/events", "Last-Event-ID", strings.TrimPrefix(set[0], "id: ")).body
	if got := event(t, again); got[0] != changed[0] {
		t.Errorf("resumed at %q, want %q", got, changed[0])
	}
	c.appendRecords("roof-2", "more.things")
	if got := event(t, again); got[1] != "event: more.things" {
		t.Errorf("%q", got)
	}
	close(draining)
	for _, r := range []*bufio.Reader{r, again} {
		if rest, err := r.ReadString(0); err == nil || strings.Contains(rest, "event:") {
			t.Errorf("after the end: %q, %v", rest, err)
		}
	}
}

func TestEventsRefuse(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for _, x := range []struct {
		path, last string
		want       int
	}{
		{"/api/v1/devices/absent/events", "", 404},
		{"/api/v1/devices/No%20device/events", "", 404},
		{"/api/v1/events", "x", 422},
		{"/api/v1/events", "-1", 422},
	} {
		resp := c.stream(t.Context(), x.path, "Last-Event-ID", x.last)
		if resp.status != x.want || resp.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d", x.path, resp.status)
		}
	}
}

// There are so many places for those who listen; who leaves makes room.
func TestEventsAreBounded(t *testing.T) {
	c := newCloud(t)
	ctx, leave := context.WithCancel(t.Context())
	for i := range maxListeners {
		if resp := c.stream(ctx, "/api/v1/events"); resp.status != http.StatusOK {
			t.Fatalf("listener %d: %d", i, resp.status)
		}
	}
	if resp := c.stream(t.Context(), "/api/v1/events"); resp.status != http.StatusServiceUnavailable || resp.header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d", resp.status)
	}
	if r := c.get("/api/v1/events"); r.status != 200 {
		t.Errorf("a page, beside the listeners: %d", r.status)
	}
	leave()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for patience := time.After(10 * time.Second); ; {
		resp := c.stream(t.Context(), "/api/v1/events")
		resp.leave()
		if resp.status == http.StatusOK {
			return
		}
		select {
		case <-look.C:
		case <-patience:
			t.Fatal("those who left still have their places")
		}
	}
}
