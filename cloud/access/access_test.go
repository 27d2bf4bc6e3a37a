package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

// memory is a store in memory; the errors stand for a database that is away.
type memory struct {
	tokens       []Token
	by           []string
	find, put    error
	beforePut    func()
	hashOfOthers bool // finds a token whatever is asked for, as a broken store might
}

func (m *memory) TokenByHash(_ context.Context, hash [32]byte) (Token, error) {
	for _, t := range m.tokens {
		if t.Hash == hash || m.hashOfOthers {
			return t, m.find
		}
	}
	if m.find != nil {
		return Token{}, m.find
	}
	return Token{}, fmt.Errorf("finding: %w", ErrUnknown)
}

func (m *memory) HasTokens(context.Context) (bool, error) { return len(m.tokens) > 0, m.find }

func (m *memory) PutToken(_ context.Context, t Token, by string) error {
	if m.beforePut != nil {
		m.beforePut()
	}
	if m.put == nil {
		m.tokens, m.by = append(m.tokens, t), append(m.by, by)
	}
	return m.put
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newToken(t *testing.T, name string, role Role) (string, Token) {
	t.Helper()
	secret, token, err := New(rand.Reader, name, role, now)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Text(), token
}

// Attacks: A1
func TestAuthenticate(t *testing.T) {
	text, token := newToken(t, "ada", Operator)
	other, _ := newToken(t, "eve", Administrator)
	old, expired := newToken(t, "bob", Viewer)
	expired.ExpiresAt = now
	store := &memory{tokens: []Token{token, expired}}

	who, err := Authenticate(t.Context(), store, "Bearer "+text, now)
	if diff := cmp.Diff(Identity{"ada", Operator}, who); diff != "" || err != nil {
		t.Errorf("valid token: %v\n%s", err, diff)
	}
	if _, err := Authenticate(t.Context(), store, "bearer "+text, now); err != nil {
		t.Errorf("scheme in lower case: %v", err)
	}
	if who, err := Authenticate(t.Context(), store, "Bearer "+old, now.Add(-time.Millisecond)); err != nil || who.Name != "bob" {
		t.Errorf("token before its end: %v, %v", who, err)
	}
	for name, header := range map[string]string{
		"none":          "",
		"scheme only":   "Bearer ",
		"other scheme":  "Basic " + text,
		"no scheme":     text,
		"truncated":     "Bearer " + text[:len(text)-1],
		"longer":        "Bearer " + text + "A",
		"two spaces":    "Bearer  " + text,
		"unknown":       "Bearer " + other,
		"expired":       "Bearer " + old,
		"upper case":    "Bearer " + string(bytes.ToUpper([]byte(text))),
		"line break":    "Bearer " + text + "\n",
		"cut in scheme": "Beare",
	} {
		who, err := Authenticate(t.Context(), store, header, now)
		if err != ErrUnauthenticated || who != (Identity{}) { //nolint:errorlint // nothing may be wrapped around it: the answer is always the same
			t.Errorf("%s: %v, %v; want ErrUnauthenticated itself", name, who, err)
		}
	}
}

func TestAuthenticateDistrustsTheStore(t *testing.T) {
	_, token := newToken(t, "ada", Administrator)
	other, _ := newToken(t, "eve", Viewer)
	store := &memory{tokens: []Token{token}, hashOfOthers: true}
	if who, err := Authenticate(t.Context(), store, "Bearer "+other, now); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("a token of another hash made the caller %v, %v", who, err)
	}
	store = &memory{find: io.ErrUnexpectedEOF}
	if _, err := Authenticate(t.Context(), store, "Bearer "+other, now); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrUnauthenticated) {
		t.Errorf("a store that is away: %v; must not look like a wrong token", err)
	}
}

func TestPermissions(t *testing.T) {
	// Who may do what, written out: a change of the table must be meant.
	want := map[Action][]Role{
		SeeFleet:      {Viewer, Operator, Administrator},
		SeeTelemetry:  {Viewer, Operator, Administrator},
		SeeAudit:      {Viewer, Operator, Administrator},
		ChangeDevice:  {Operator, Administrator},
		OrderCommands: {Operator, Administrator},
		ChangeConfig:  {Operator, Administrator},
		AddDevice:     {Administrator},
		RotateKeys:    {Administrator},
		RecoverDevice: {Administrator},
		ManageKeyring: {Administrator},
		KeepReleases:  {Operator, Administrator},
		RollOut:       {Operator, Administrator},
		TrustRoot:     {Administrator},
	}
	for action := Action(0); action <= TrustRoot+1; action++ {
		var got []Role
		for role := Role(0); role <= Administrator+2; role++ {
			err := Identity{Name: "x", Role: role}.Authorize(action)
			if err == nil {
				got = append(got, role)
				continue
			}
			var forbidden *ForbiddenError
			if !errors.As(err, &forbidden) || forbidden.Action != action {
				t.Errorf("%v for %v: %v, want a *ForbiddenError", action, role, err)
			}
		}
		if diff := cmp.Diff(want[action], got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", action, diff)
		}
	}
}

func TestRoleText(t *testing.T) {
	for _, r := range []Role{Viewer, Operator, Administrator} {
		if got, err := ParseRole(r.String()); got != r || err != nil {
			t.Errorf("ParseRole(%q) = %v, %v", r, got, err)
		}
	}
	for _, bad := range []string{"", "Viewer", "root", "role(0)"} {
		if got, err := ParseRole(bad); err == nil {
			t.Errorf("ParseRole(%q) = %v", bad, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	if _, _, err := New(rand.Reader, "Not A Name", Viewer, now); err == nil {
		t.Error("a token with a bad name was made")
	}
	if _, _, err := New(rand.Reader, "ada", 0, now); err == nil {
		t.Error("a token without a role was made")
	}
	if _, _, err := New(bytes.NewReader(nil), "ada", Viewer, now); err == nil {
		t.Error("a token was made without randomness")
	}
}

func TestBootstrap(t *testing.T) {
	var saved string
	keep := func(k key.Token) error {
		saved = k.Text()
		return nil
	}
	store := &memory{beforePut: func() {
		if saved == "" {
			t.Error("the token became valid before it was saved")
		}
	}}
	if made, err := Bootstrap(t.Context(), store, rand.Reader, now, keep); !made || err != nil {
		t.Fatalf("Bootstrap = %v, %v", made, err)
	}
	who, err := Authenticate(t.Context(), store, "Bearer "+saved, now)
	if err != nil || who.Role != Administrator || store.by[0] != "" {
		t.Errorf("the saved token is %v, %v, by %q", who, err, store.by)
	}
	first := saved
	if made, err := Bootstrap(t.Context(), store, rand.Reader, now, keep); made || err != nil || saved != first {
		t.Errorf("second Bootstrap = %v, %v", made, err)
	}

	empty := &memory{}
	full := func(key.Token) error { return io.ErrShortWrite }
	if _, err := Bootstrap(t.Context(), empty, rand.Reader, now, full); !errors.Is(err, io.ErrShortWrite) || len(empty.tokens) > 0 {
		t.Errorf("a token that could not be saved is valid: %v, %v", err, empty.tokens)
	}
	away := &memory{find: io.ErrUnexpectedEOF}
	if _, err := Bootstrap(t.Context(), away, rand.Reader, now, keep); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a store that is away: %v", err)
	}
}
