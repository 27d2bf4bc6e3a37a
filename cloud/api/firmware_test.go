package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/access"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
	"ecowatt/firmware"
)

// fakeTrust notes what it was given, and refuses what a test wants.
type fakeTrust struct {
	given  string
	by     string
	refuse error
	roots  rollout.Roots
}

func (f *fakeTrust) Roots() rollout.Roots { return f.roots }

func (f *fakeTrust) AddRoot(_ context.Context, signed []byte, by string) (bool, error) {
	f.given, f.by = string(signed), by
	return f.refuse == nil, f.refuse
}

// fakeDepot has one release at most, which is any body.
type fakeDepot struct {
	got     string
	err     error
	again   bool
	removed rollout.Hash
	missing int
}

func (f *fakeDepot) Push(_ context.Context, bundle io.Reader, by string) (rollout.Release, bool, error) {
	b, err := io.ReadAll(bundle)
	f.got = string(b) + " by " + by
	return rollout.Release{ID: rollout.Hash{1}, Version: "1.4.0", Number: 12, Hardware: []string{"gw-1"}}, !f.again, errors.Join(err, f.err)
}

func (f *fakeDepot) Remove(_ context.Context, id rollout.Hash, _ string) error {
	f.removed = id
	if f.err == nil && id != (rollout.Hash{1}) {
		return rollout.ErrNoRelease
	}
	return f.err
}

func (f *fakeDepot) Lacking(rollout.Release) int { return f.missing }

func TestPushRelease(t *testing.T) {
	c := newCloud(t)
	push := func(body string) reply {
		return c.do(http.MethodPost, "/api/v1/firmware", c.tokens[access.Operator], body, "Content-Type", "application/x-tar")
	}
	id := rollout.Hash{1}.String()
	large := strings.Repeat("x", 4*maxBody) // beyond what other bodies may have
	r := push(large)
	if r.status != http.StatusCreated || r.header.Get("Location") != "/api/v1/firmware/"+id || c.depot.got != large+" by operator" ||
		!strings.Contains(r.body, `"added":true`) || !strings.Contains(r.body, `"id":"`+id+`"`) {
		t.Errorf("%d %s %v", r.status, r.body, r.header)
	}
	for _, x := range []struct {
		err    error
		status int
		detail string
	}{
		{ErrReceiving, 503, ErrReceiving.Error()},
		{&rollout.RefusedError{Code: rollout.CodeSignature, Problem: "not signed as it must be"}, 422, "not signed as it must be"},
		{&rollout.RefusedError{Code: rollout.CodeTooLarge, Problem: "too large"}, 413, "too large"},
		{errBusy, 503, "the cloud cannot do this now; try again"},
		{errors.New("secret details"), 500, "the cloud failed to do this; its log says why"},
	} {
		c.depot.err = x.err
		r := push("bundle")
		if p := problemOf(t, r); r.status != x.status || p.Detail != x.detail {
			t.Errorf("%v: %d %s", x.err, r.status, r.body)
		}
	}
}

// vector is a file of the vectors of docs/formats/firmware.md.
func vector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "firmware", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// release stores the release of the vectors, which the cloud then trusts.
func (c *cloud) release() rollout.Release {
	c.t.Helper()
	b, err := firmware.ReadBundle(bytes.NewReader(vector(c.t, "release.ewfw")), rollout.MaxBundle)
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := b.Envelope.Encode()
	if err != nil {
		c.t.Fatal(err)
	}
	release, err := rollout.ReadRelease(signed)
	if err != nil {
		c.t.Fatal(err)
	}
	release.AddedAt, release.AddedBy = c.now, "ada"
	if _, err := c.store.AddRelease(c.t.Context(), release, store.Content{KEK: "kek1", Wrapped: make([]byte, 72)}); err != nil {
		c.t.Fatal(err)
	}
	if c.trust.roots, err = rollout.ReadRoots([][]byte{vector(c.t, "root.cbor")}); err != nil {
		c.t.Fatal(err)
	}
	return release
}

func TestReleases(t *testing.T) {
	c := newCloud(t)
	release := c.release()
	c.depot.missing = 2
	id := release.ID.String()
	one := c.get("/api/v1/firmware/" + id)
	want := Release{
		ID: id, Version: "1.4.0", Release: 12, Security: 3, Hardware: []string{"gw-1", "gw-2"}, Size: 20000, Image: release.Image.String(),
		MinFrom: 7, DowngradeFrom: []uint64{13}, Created: &release.Created, Expires: &release.Expires, Missing: 2, AddedAt: c.now, AddedBy: "ada",
		Payloads: []ReleasePayload{
			{Kind: "diff", Size: 353, Base: release.Payloads[0].Base}, {Kind: "patch", Size: 347, Base: release.Payloads[1].Base}, {Kind: "full", Size: 20046},
		},
	}
	if diff := cmp.Diff(want, decode[Release](t, one.body)); diff != "" || one.status != http.StatusOK {
		t.Errorf("%d (-want +got):\n%s", one.status, diff)
	}
	list := decode[ReleaseList](t, c.get("/api/v1/firmware").body)
	if diff := cmp.Diff([]Release{want}, list.Releases); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	remove := func(id string) reply {
		return c.do(http.MethodDelete, "/api/v1/firmware/"+id, c.tokens[access.Operator], "")
	}
	if r := remove(rollout.Hash{1}.String()); r.status != http.StatusNoContent || c.depot.removed != (rollout.Hash{1}) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := remove(id); r.status != http.StatusNotFound || problemOf(t, r).Detail != "there is no release "+id {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := remove(strings.ToUpper(id)); r.status != http.StatusNotFound {
		t.Errorf("another name for it: %d %s", r.status, r.body)
	}
	c.depot.err = &rollout.InUseError{Rollout: rollout.ID{2}}
	if r := remove(id); r.status != http.StatusConflict || !strings.Contains(problemOf(t, r).Detail, "rollout "+rollout.ID{2}.String()+" needs it") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestPutFirmwareRoot(t *testing.T) {
	c := newCloud(t)
	put := func() reply {
		return c.do(http.MethodPut, "/api/v1/firmware/root", c.tokens[access.Administrator], "\x82signed", "Content-Type", "application/cbor")
	}
	if r := put(); r.status != http.StatusOK || r.body != `{"version":0,"first":0,"added":true}`+"\n" || c.trust.given != "\x82signed" || c.trust.by != "administrator" {
		t.Errorf("%d %s; given %q by %s", r.status, r.body, c.trust.given, c.trust.by)
	}
	for code, status := range map[rollout.Code]int{
		rollout.CodeSignature: 422, rollout.CodeFormat: 422, rollout.CodeChunk: 422, rollout.CodeKey: 422,
		rollout.CodeRoot: 409, rollout.CodeNoRoot: 409, rollout.CodeTooLarge: 413,
	} {
		c.trust.refuse = &rollout.RefusedError{Code: code, Problem: "it is bad"}
		r := put()
		if p := problemOf(t, r); r.status != status || p.Detail != "it is bad" || !strings.Contains(r.body, `"value":"`+string(code)+`"`) {
			t.Errorf("%s: %d %s, want %d", code, r.status, r.body, status)
		}
	}
	if r := c.do(http.MethodPut, "/api/v1/firmware/root", c.tokens[access.Administrator], strings.Repeat("x", maxBody+1)); r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body beyond the bound: %d %s", r.status, r.body)
	}
}

// deadlines notes until when a connection may be silent.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, t)
	return nil
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write = append(d.write, t)
	return nil
}

// Each piece of a bundle has its time, and the answer has some after the last one.
func TestPatientReader(t *testing.T) {
	d, begin := &deadlines{ResponseRecorder: httptest.NewRecorder()}, time.Now()
	p := &patientReader{r: iotest.OneByteReader(strings.NewReader("abc")), control: http.NewResponseController(d)}
	if b, err := io.ReadAll(p); string(b) != "abc" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if len(d.read) != 4 || len(d.write) != 4 {
		t.Fatalf("%d and %d deadlines for 3 pieces and the end", len(d.read), len(d.write))
	}
	for i := range d.read {
		if d.read[i].Before(begin.Add(stallTime)) || d.read[i].After(time.Now().Add(stallTime)) || !d.write[i].After(d.read[i]) {
			t.Errorf("a piece has until %v, the answer until %v, at %v", d.read[i], d.write[i], begin)
		}
	}
}
