package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/access"
)

// fakeKeyring is a key ring that has kek1 and kek2 for ever, and notes what it
// was asked, unless err is set.
type fakeKeyring struct {
	err   error
	asked []string
}

var fakeMade = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func (f *fakeKeyring) note(format string, args ...any) error {
	if f.err == nil {
		f.asked = append(f.asked, fmt.Sprintf(format, args...))
	}
	return f.err
}

func (f *fakeKeyring) Keys(context.Context) ([]KeyringKey, error) {
	return []KeyringKey{{ID: "kek1", MadeAt: fakeMade, DeviceKeys: 7, Sessions: 3}, {ID: "kek2", Primary: true, MadeAt: fakeMade}}, nil
}

func (f *fakeKeyring) Add(_ context.Context, by string) (KeyringKey, error) {
	return KeyringKey{ID: "kek3", MadeAt: fakeMade}, f.note("add by %s", by)
}

func (f *fakeKeyring) SetPrimary(_ context.Context, id, by string) error {
	return f.note("primary %s by %s", id, by)
}

func (f *fakeKeyring) Rewrap(_ context.Context, after, by string) (KeyringRewrap, error) {
	return KeyringRewrap{Primary: "kek2", DeviceKeys: 7, Failed: []string{}, Next: "n1"}, f.note("rewrap %q by %s", after, by)
}

func (f *fakeKeyring) Remove(_ context.Context, id, by string) error {
	return f.note("remove %s by %s", id, by)
}

const shownKeyring = `{"keys":[{"id":"kek1","primary":false,"made_at":"2026-06-01T12:00:00Z","device_keys":7,"sessions":3,"releases":0},` +
	`{"id":"kek2","primary":true,"made_at":"2026-06-01T12:00:00Z","device_keys":0,"sessions":0,"releases":0}]}` + "\n"

var keyringRequests = []struct {
	name, method, path, body string
	status                   int
	asked, answer            string
}{
	{"list", http.MethodGet, "/api/v1/keyring", "", 200, "", shownKeyring},
	{
		"add", http.MethodPost, "/api/v1/keyring/keys", "", 201, "add by administrator",
		`{"id":"kek3","primary":false,"made_at":"2026-06-01T12:00:00Z","device_keys":0,"sessions":0,"releases":0}` + "\n",
	},
	{"primary", http.MethodPut, "/api/v1/keyring/primary", `{"id":"kek1"}`, 200, "primary kek1 by administrator", shownKeyring},
	{
		"rewrap", http.MethodPost, "/api/v1/keyring/rewrap", "", 200, `rewrap "" by administrator`,
		`{"primary":"kek2","device_keys":7,"sessions":0,"releases":0,"failed":[],"next":"n1"}` + "\n",
	},
	{"rewrap on", http.MethodPost, "/api/v1/keyring/rewrap?after=n1", "", 200, `rewrap "n1" by administrator`, ""},
	{"remove", http.MethodDelete, "/api/v1/keyring/keys/kek1", "", 200, "remove kek1 by administrator", shownKeyring},
	{"no id", http.MethodPut, "/api/v1/keyring/primary", `{}`, 422, "", ""},
	{"another field", http.MethodPut, "/api/v1/keyring/primary", `{"id":"kek1","key":"x"}`, 422, "", ""},
	{"no body", http.MethodPut, "/api/v1/keyring/primary", ``, 400, "", ""},
	{"another parameter", http.MethodPost, "/api/v1/keyring/rewrap?before=n1", "", 422, "", ""},
	{"no such path", http.MethodGet, "/api/v1/keyring/keys/kek1", "", 405, "", ""},
}

func TestKeyring(t *testing.T) {
	for _, test := range keyringRequests {
		t.Run(test.name, func(t *testing.T) {
			c := newCloud(t)
			r := c.do(test.method, test.path, c.tokens[access.Administrator], test.body)
			if r.status != test.status || test.answer != "" && r.body != test.answer {
				t.Errorf("%d %s\nwant %d %s", r.status, r.body, test.status, test.answer)
			}
			if got := strings.Join(c.keyring.asked, "; "); got != test.asked {
				t.Errorf("the ring was asked: %q, want %q", got, test.asked)
			}
			if r.status >= 400 {
				problemOf(t, r)
			}
		})
	}
}

// What the ring refuses is answered as such, and what fails without details.
func TestKeyringRefuses(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
		says   string
	}{
		{ErrNoKEK, 404, `no key-encryption key \"kek1\"`},
		{&ConflictError{Problem: "kek1 wraps 7 device keys and 3 sessions"}, 409, "kek1 wraps 7 device keys and 3 sessions"},
		{errors.New("secret details"), 500, "its log says why"},
		{errBusy, 503, "try again"},
	} {
		c := newCloud(t)
		c.keyring.err = fmt.Errorf("wrapped: %w", test.err)
		for _, ask := range []struct{ method, path, body string }{
			{http.MethodPut, "/api/v1/keyring/primary", `{"id":"kek1"}`},
			{http.MethodDelete, "/api/v1/keyring/keys/kek1", ""},
		} {
			r := c.do(ask.method, ask.path, c.tokens[access.Administrator], ask.body)
			problemOf(t, r)
			if r.status != test.status || !strings.Contains(r.body, test.says) || strings.Contains(r.body, "secret") {
				t.Errorf("%s %s, %v: %d %s", ask.method, ask.path, test.err, r.status, r.body)
			}
		}
	}
	c := newCloud(t)
	c.keyring.err = ErrPlace
	r := c.do(http.MethodPost, "/api/v1/keyring/rewrap?after=x", c.tokens[access.Administrator], "")
	if p := problemOf(t, r); r.status != 422 || len(p.Errors) != 1 || p.Errors[0].Location != "query.after" {
		t.Errorf("a place that is none: %d %s", r.status, r.body)
	}
}
