package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"ecowatt/cloud/access"
	"ecowatt/cloud/rollout"
)

// fakeTrust notes what it was given, and refuses what a test wants.
type fakeTrust struct {
	given  string
	by     string
	refuse error
}

func (f *fakeTrust) Roots() rollout.Roots { return rollout.Roots{} }

func (f *fakeTrust) AddRoot(_ context.Context, signed []byte, by string) (bool, error) {
	f.given, f.by = string(signed), by
	return f.refuse == nil, f.refuse
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
