package api

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
)

func actions(records Records) string {
	var all []string
	for _, r := range records.Records {
		all = append(all, r.Action)
	}
	return strings.Join(all, " ")
}

func TestAudit(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	c.add("roof-2", "")
	start := decode[Records](t, c.get("/api/v1/audit?limit=1000").body).Next
	c.appendRecords("roof-1", "a.one", "a.two")
	c.appendRecords("roof-2", "b.one")
	c.appendRecords("roof-1", "a.three")
	for _, id := range []ecowatt.DeviceID{"roof-1", "roof-2"} {
		err := c.store.Append(t.Context(), audit.Record{At: c.now, Actor: audit.Actor{Kind: audit.System}, Device: id, Action: "x." + string(id), Attrs: map[string]string{audit.AttrReason: "EX_GAP"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.appendRecords("roof-1", "a.four")
	after := "after=" + strconv.FormatInt(start, 10)
	for _, test := range []struct {
		path, want string
		next       int64 // beyond start
	}{
		{"/api/v1/audit?" + after, "a.one a.two b.one a.three x.roof-1 x.roof-2 a.four", 7},
		{"/api/v1/audit?limit=2&" + after, "a.one a.two", 2},
		{"/api/v1/audit?last=2", "x.roof-2 a.four", 7},
		{"/api/v1/audit?last=6&limit=2", "a.two b.one", 3},
		{"/api/v1/audit?device=roof-2&" + after, "b.one x.roof-2", 6},
		{"/api/v1/audit?device=absent&" + after, "", 0},
		{"/api/v1/audit?security=true&" + after, "x.roof-1 x.roof-2", 6},
		{"/api/v1/audit?security=false&last=1", "a.four", 7},
		{"/api/v1/devices/roof-1/events?" + after, "a.one a.two a.three x.roof-1 a.four", 7},
		{"/api/v1/devices/roof-1/events?last=1", "a.four", 7},
		{"/api/v1/devices/roof-1/events?security=true&last=10", "x.roof-1", 5},
	} {
		got := decode[Records](t, c.get(test.path).body)
		if actions(got) != test.want || got.Next != start+test.next {
			t.Errorf("%s: %q, next %d; want %q, %d", test.path, actions(got), got.Next, test.want, start+test.next)
		}
	}
	got := decode[Records](t, c.get("/api/v1/audit?last=1").body).Records[0]
	if got.N != start+7 || !got.At.Equal(c.now) || got.Actor.Kind != "device" || got.Actor.Name != "roof-1" || got.Device != "roof-1" || got.Text != "text of a.four" {
		t.Errorf("record %+v", got)
	}
}

// A caller that waits hears of a record soon after it is written.
func TestAuditWait(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	next := decode[Records](t, c.get("/api/v1/audit").body).Next
	path := "/api/v1/audit?wait=25&after=" + strconv.FormatInt(next, 10)
	heard := make(chan reply)
	go func() { heard <- c.get(path) }()
	select {
	case r := <-heard:
		t.Fatalf("answered without news: %s", r.body)
	case <-time.After(2 * lookInterval):
	}
	c.appendRecords("roof-1", "a.one")
	select {
	case r := <-heard:
		if got := decode[Records](t, r.body); actions(got) != "a.one" || got.Next != next+1 {
			t.Errorf("heard %s", r.body)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("does not hear of a record")
	}
	began := time.Now()
	r := c.get("/api/v1/audit?wait=3&after=" + strconv.FormatInt(next+1, 10))
	if got := decode[Records](t, r.body); len(got.Records) != 0 || got.Next != next+1 || time.Since(began) < 3*time.Second {
		t.Errorf("after %v: %s; want nothing after 3 s, which is longer than the server's own bounds", time.Since(began), r.body)
	}
}

// A server that stops sends home who waits.
func TestAuditWaitDraining(t *testing.T) {
	draining := make(chan struct{})
	c := newCloud(t, func(o *Options) { o.Draining = draining })
	heard := make(chan reply)
	go func() {
		heard <- c.do(http.MethodGet, "/api/v1/audit?wait=25&after=1000", c.tokens[access.Viewer], "")
	}()
	close(draining)
	select {
	case r := <-heard:
		if diff := cmp.Diff(`{"records":[],"next":1000}`+"\n", r.body); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting")
	}
}
