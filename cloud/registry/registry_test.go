package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/identity"
	"ecowatt/key"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("CET", 3600))

// memory is a store in memory, and wraps keys by remembering them.
type memory struct {
	devices []NewDevice
	keys    []key.Device
	rows    []string // what the keys were bound to
	store   error
	wrap    error
}

func (m *memory) CreateDevice(_ context.Context, n NewDevice) error {
	if m.store == nil {
		m.devices = append(m.devices, n)
	}
	return m.store
}

func (m *memory) WrapDevice(k key.Device, device string, id key.ID, epoch key.Epoch) (string, []byte, error) {
	m.keys, m.rows = append(m.keys, k), append(m.rows, fmt.Sprintf("%s %s %d", device, id, epoch))
	return "kek", []byte("wrapped"), m.wrap
}

func good() Request {
	return Request{ID: "roof", Group: "north", Notes: "on the barn\n\tby ä", CloudURL: "https://cloud.example.org", By: "ada"}
}

func TestAdd(t *testing.T) {
	m := &memory{}
	d, e, err := New(m, m, rand.Reader).Add(t.Context(), good(), now)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 11, 0, 0, 123e6, time.UTC)
	wantDevice := Device{ID: "roof", Group: "north", Notes: "on the barn\n\tby ä", TimeZone: "UTC", CreatedAt: at, Epoch: 1, KeySince: at}
	if diff := cmp.Diff(wantDevice, d); diff != "" {
		t.Errorf("device (-want +got):\n%s", diff)
	}
	want := NewDevice{
		ID: "roof", Group: "north", Notes: "on the barn\n\tby ä", TimeZone: "UTC", CreatedAt: at, By: "ada",
		Key: NewKey{ID: e.PSKID, Epoch: 1, KEK: "kek", Wrapped: []byte("wrapped")},
	}
	if diff := cmp.Diff([]NewDevice{want}, m.devices); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if e.DeviceID != "roof" || e.CloudURL != "https://cloud.example.org" || e.Epoch != 1 || e.PSKID == (key.ID{}) || !e.Key.Equal(m.keys[0]) {
		t.Errorf("enrolment %+v", e)
	}
	if want := fmt.Sprintf("roof %s 1", e.PSKID); m.rows[0] != want {
		t.Errorf("the key is bound to %q, want %q", m.rows[0], want)
	}

	q := good()
	q.ID, q.Group, q.Notes = "barn", "", ""
	_, second, err := New(m, m, rand.Reader).Add(t.Context(), q, now)
	if err != nil || second.Key.Equal(e.Key) || second.PSKID == e.PSKID {
		t.Errorf("a second device: %v; must have a key and an id of its own", err)
	}
}

func TestAddRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		edit  func(*Request)
	}{
		"no id":                     {"device_id", func(q *Request) { q.ID = "" }},
		"id in capitals":            {"device_id", func(q *Request) { q.ID = "Roof" }},
		"id with a slash":           {"device_id", func(q *Request) { q.ID = "a/b" }},
		"id too long":               {"device_id", func(q *Request) { q.ID = strings.Repeat("a", 65) }},
		"group with a space":        {"group", func(q *Request) { q.Group = "a b" }},
		"group too long":            {"group", func(q *Request) { q.Group = strings.Repeat("a", 65) }},
		"notes too long":            {"notes", func(q *Request) { q.Notes = strings.Repeat("a", maxNotes+1) }},
		"notes not UTF-8":           {"notes", func(q *Request) { q.Notes = "a\xff" }},
		"notes with a bell":         {"notes", func(q *Request) { q.Notes = "a\a" }},
		"notes with an escape":      {"notes", func(q *Request) { q.Notes = "\x1b[2J" }},
		"notes with a C1 control":   {"notes", func(q *Request) { q.Notes = "a\u009b" }},
		"no URL":                    {"cloud_url", func(q *Request) { q.CloudURL = "" }},
		"another scheme":            {"cloud_url", func(q *Request) { q.CloudURL = "ftp://host" }},
		"no scheme":                 {"cloud_url", func(q *Request) { q.CloudURL = "cloud.example.org" }},
		"no host":                   {"cloud_url", func(q *Request) { q.CloudURL = "https:///v1" }},
		"only a port":               {"cloud_url", func(q *Request) { q.CloudURL = "https://:8080" }},
		"opaque":                    {"cloud_url", func(q *Request) { q.CloudURL = "https:host" }},
		"a user":                    {"cloud_url", func(q *Request) { q.CloudURL = "https://a:b@host" }},
		"a query":                   {"cloud_url", func(q *Request) { q.CloudURL = "https://host?a" }},
		"an empty query":            {"cloud_url", func(q *Request) { q.CloudURL = "https://host?" }},
		"a fragment":                {"cloud_url", func(q *Request) { q.CloudURL = "https://host#a" }},
		"an empty fragment":         {"cloud_url", func(q *Request) { q.CloudURL = "https://host/#" }},
		"a space":                   {"cloud_url", func(q *Request) { q.CloudURL = "https://host/a b" }},
		"a line break":              {"cloud_url", func(q *Request) { q.CloudURL = "https://host\n" }},
		"not ASCII":                 {"cloud_url", func(q *Request) { q.CloudURL = "https://höst" }},
		"port 0":                    {"cloud_url", func(q *Request) { q.CloudURL = "https://host:0" }},
		"port 65536":                {"cloud_url", func(q *Request) { q.CloudURL = "https://host:65536" }},
		"no port after the colon":   {"cloud_url", func(q *Request) { q.CloudURL = "https://host:" }},
		"URL too long":              {"cloud_url", func(q *Request) { q.CloudURL = "https://host/" + strings.Repeat("a", maxURL) }},
		"a zone on the moon":        {"time_zone", func(q *Request) { q.TimeZone = "Moon/Crater" }},
		"the server's own zone":     {"time_zone", func(q *Request) { q.TimeZone = "Local" }},
		"a zone that is a path":     {"time_zone", func(q *Request) { q.TimeZone = "../../etc/passwd" }},
		"the first of several":      {"device_id", func(q *Request) { q.ID, q.Group, q.CloudURL = "", "A", "" }},
		"the first of several more": {"group", func(q *Request) { q.Group, q.Notes, q.CloudURL = "A", "\a", "" }},
	} {
		m := &memory{}
		q := good()
		c.edit(&q)
		d, e, err := New(m, m, rand.Reader).Add(t.Context(), q, now)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != c.field || !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("%s: %v, want an *InvalidError of %s", name, err, c.field)
		}
		if len(m.devices)+len(m.keys) > 0 || !e.Key.IsZero() || d.ID != "" {
			t.Errorf("%s: something was made", name)
		}
	}
}

// TestAddFails: whatever goes wrong, no key comes out.
func TestAddFails(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		m      *memory
		random io.Reader
		want   error
	}{
		"a name that is taken": {&memory{store: ErrExists}, rand.Reader, ErrExists},
		"a store that is away": {&memory{store: boom}, rand.Reader, boom},
		"a ring that is away":  {&memory{wrap: boom}, rand.Reader, boom},
		"no randomness":        {&memory{}, bytes.NewReader(nil), io.EOF},
		"too little of it":     {&memory{}, io.LimitReader(rand.Reader, key.Size), io.EOF},
		"a broken source":      {&memory{}, bytes.NewReader(make([]byte, 100)), key.ErrWeak},
	} {
		d, e, err := New(c.m, c.m, c.random).Add(t.Context(), good(), now)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if d.ID != "" || !e.Key.IsZero() || len(c.m.devices) > 0 {
			t.Errorf("%s: something was made", name)
		}
	}
}

func TestEnrolmentEncode(t *testing.T) {
	secret := []byte("SECRETSECRETSECRETSECRETSECRETXY")
	k, err := key.DeviceFromBytes(secret)
	if err != nil {
		t.Fatal(err)
	}
	e := Enrolment{
		DeviceID: "roof", CloudURL: "https://cloud.example.org", Epoch: 1,
		PSKID: key.ID{0xab, 0x01}, Key: k, FirmwareRoot: []byte{1, 2, 3},
	}
	got, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "device_id": "roof",
  "cloud_url": "https://cloud.example.org",
  "epoch": 1,
  "psk_id": "ab010000000000000000000000000000",
  "key": "U0VDUkVUU0VDUkVUU0VDUkVUU0VDUkVUU0VDUkVUWFk=",
  "firmware_root": "AQID"
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e.Key = key.Device{}
	if file, err := e.Encode(); err == nil {
		t.Errorf("an enrolment without a key: %s", file)
	}
}

// TestDevicesTakeIt: what Add makes, an agent reads.
func TestDevicesTakeIt(t *testing.T) {
	for _, url := range []string{
		"https://cloud.example.org", "http://127.0.0.1:8080", "https://[::1]:8443/", "https://host/a/b",
		"http://host:65535", "https://host/" + strings.Repeat("a", maxURL-len("https://host/")),
	} {
		m := &memory{}
		q := good()
		q.CloudURL = url
		_, e, err := New(m, m, rand.Reader).Add(t.Context(), q, now)
		if err != nil {
			t.Errorf("%.40s: %v", url, err)
			continue
		}
		file, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.ParseEnrolment(file); err != nil {
			t.Errorf("%.40s: the agent refuses the file: %v", url, err)
		}
	}
}

// TestNothingPrintsTheKey but Encode.
//
// Attacks: A4
func TestNothingPrintsTheKey(t *testing.T) {
	m := &memory{}
	_, e, err := New(m, m, rand.Reader).Add(t.Context(), good(), now)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb+verb, e, &e)
	}
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	logger.Info("a", "enrolment", e)
	for name, v := range map[string]any{"alone": e, "pointer": &e, "in a list": []Enrolment{e}, "in a map": map[string]any{"e": e}} {
		text, err := json.Marshal(v)
		if err == nil || !strings.Contains(err.Error(), "use Encode") {
			t.Errorf("%s: marshalled as %s, %v; want an error that names Encode", name, text, err)
		}
		fmt.Fprintln(&out, err)
	}
	secret := e.Key.Secret()
	for name, leak := range map[string]string{
		"hexadecimal": hex.EncodeToString(secret[:4]),
		"base64":      base64.StdEncoding.EncodeToString(secret[:])[:8],
		"decimal":     strings.Trim(fmt.Sprintf("%d", secret[:4]), "[]"),
		"itself":      string(secret[:4]),
	} {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(leak)) {
			t.Errorf("the output shows the key as %s", name)
		}
	}
}

func TestChangeCheck(t *testing.T) {
	for name, c := range map[string]struct {
		c     Change
		field string
	}{
		"nothing":          {Change{}, ""},
		"all":              {Change{Group: new("north"), Notes: new("a"), Disabled: new(true)}, ""},
		"no group":         {Change{Group: new("")}, ""},
		"no notes":         {Change{Notes: new("")}, ""},
		"longest notes":    {Change{Notes: new(strings.Repeat("a", maxNotes))}, ""},
		"bad group":        {Change{Group: new("A B")}, "group"},
		"bad notes":        {Change{Notes: new("\x00")}, "notes"},
		"longer notes":     {Change{Notes: new(strings.Repeat("a", maxNotes+1))}, "notes"},
		"bad after good":   {Change{Group: new("north"), Notes: new("\xff")}, "notes"},
		"group goes first": {Change{Group: new("A"), Notes: new("\xff")}, "group"},
	} {
		err := c.c.Check()
		var invalid *InvalidError
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.field != "" && (!errors.As(err, &invalid) || invalid.Field != c.field):
			t.Errorf("%s: %v, want an *InvalidError of %s", name, err, c.field)
		}
	}
}
