package registry

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ecowatt"
	"ecowatt/key"
)

// maxNotes and maxURL are the longest notes and cloud URL, in bytes.
const (
	maxNotes = 1024
	maxURL   = 512
)

// Wrapper wraps a device key for the store: the result names the
// key-encryption key and opens only for the same device, id and epoch.
type Wrapper interface {
	WrapDevice(k key.Device, device string, id key.ID, epoch key.Epoch) (kek string, wrapped []byte, err error)
}

// Creator is the part of the store that Add needs.
type Creator interface {
	// CreateDevice stores the device and its first key and writes the audit
	// record "device.added", in one transaction. A name that is taken is
	// ErrExists, and nothing is stored.
	CreateDevice(ctx context.Context, n NewDevice) error
}

// NewDevice is a device about to be stored.
type NewDevice struct {
	ID        ecowatt.DeviceID
	Group     string
	Notes     string
	TimeZone  string
	CreatedAt time.Time
	By        string // the operator's name, for the audit log
	Key       NewKey
}

// NewKey is a device's key as it is stored: wrapped.
type NewKey struct {
	ID      key.ID
	Epoch   key.Epoch
	KEK     string // id of the key-encryption key
	Wrapped []byte
}

// Registry adds devices. It holds no state of its own.
type Registry struct {
	store  Creator
	keys   Wrapper
	random io.Reader
}

// New returns a registry that stores devices in store, wraps their keys with
// keys and draws keys and ids from random, which must be a cryptographic
// source (crypto/rand.Reader).
func New(store Creator, keys Wrapper, random io.Reader) *Registry {
	return &Registry{store: store, keys: keys, random: random}
}

// Request asks for a device to be added.
type Request struct {
	ID       string // its name: see ecowatt.ParseDeviceID
	Group    string // may be empty
	Notes    string // may be empty
	TimeZone string // IANA name of the site's time zone; empty for UTC
	CloudURL string // where the device finds the cloud: http or https, host, at most a path
	By       string // the operator's name, for the audit log

	FirmwareRoot []byte // the root of trust for firmware, for the enrolment; empty while there is none
}

// Add makes a device with a fresh key of epoch 1. The enrolment it returns is
// the only copy of the key outside the store. Bad input is an *InvalidError, a
// name that is taken ErrExists; then nothing is stored.
func (r *Registry) Add(ctx context.Context, q Request, now time.Time) (Device, Enrolment, error) {
	if q.TimeZone == "" {
		q.TimeZone = defaultTimeZone
	}
	id, err := q.check()
	if err != nil {
		return Device{}, Enrolment{}, err
	}
	secret, err := key.NewDevice(r.random)
	if err != nil {
		return Device{}, Enrolment{}, fmt.Errorf("making a device key: %w", err)
	}
	pskID, err := key.NewID(r.random)
	if err != nil {
		return Device{}, Enrolment{}, fmt.Errorf("making a key id: %w", err)
	}
	const epoch key.Epoch = 1
	kek, wrapped, err := r.keys.WrapDevice(secret, string(id), pskID, epoch)
	if err != nil {
		return Device{}, Enrolment{}, fmt.Errorf("wrapping the device key: %w", err)
	}
	now = now.UTC().Truncate(time.Millisecond)
	err = r.store.CreateDevice(ctx, NewDevice{
		ID: id, Group: q.Group, Notes: q.Notes, TimeZone: q.TimeZone, CreatedAt: now, By: q.By,
		Key: NewKey{ID: pskID, Epoch: epoch, KEK: kek, Wrapped: wrapped},
	})
	if err != nil {
		return Device{}, Enrolment{}, fmt.Errorf("storing device %s: %w", id, err)
	}
	device := Device{ID: id, Group: q.Group, Notes: q.Notes, TimeZone: q.TimeZone, CreatedAt: now, Epoch: epoch, KeySince: now}
	return device, Enrolment{DeviceID: id, CloudURL: q.CloudURL, Epoch: epoch, PSKID: pskID, Key: secret, FirmwareRoot: q.FirmwareRoot}, nil
}

func (q Request) check() (ecowatt.DeviceID, error) {
	id, err := ecowatt.ParseDeviceID(q.ID)
	if err != nil {
		return "", &InvalidError{Field: "device_id", Problem: err.Error()}
	}
	if err := checkGroup(q.Group); err != nil {
		return "", err
	}
	if err := checkNotes(q.Notes); err != nil {
		return "", err
	}
	if err := checkTimeZone(q.TimeZone); err != nil {
		return "", err
	}
	return id, checkURL(q.CloudURL)
}

func checkGroup(group string) error {
	if group == "" {
		return nil
	}
	if _, err := ecowatt.ParseName("group", group); err != nil {
		return &InvalidError{Field: "group", Problem: err.Error()}
	}
	return nil
}

// defaultTimeZone is that of a device of which nothing else is said.
const defaultTimeZone = "UTC"

func checkTimeZone(name string) error {
	// The empty name and "Local" would be the server's own.
	if _, err := time.LoadLocation(name); err != nil || name == "" || name == "Local" || len(name) > ecowatt.MaxNameLength {
		return &InvalidError{Field: "time_zone", Problem: fmt.Sprintf("%.40q is no time zone; write its IANA name, as in Europe/Berlin", name)}
	}
	return nil
}

func checkNotes(notes string) error {
	switch {
	case len(notes) > maxNotes:
		return &InvalidError{Field: "notes", Problem: fmt.Sprintf("%d bytes, at most %d are allowed", len(notes), maxNotes)}
	case !utf8.ValidString(notes):
		return &InvalidError{Field: "notes", Problem: "not valid UTF-8"}
	case strings.ContainsFunc(notes, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return &InvalidError{Field: "notes", Problem: "control characters are not allowed"}
	}
	return nil
}

// checkURL refuses whatever a device would refuse.
func checkURL(s string) error {
	invalid := func(problem string) error { return &InvalidError{Field: "cloud_url", Problem: problem} }
	if len(s) > maxURL {
		return invalid(fmt.Sprintf("%d bytes, at most %d are allowed", len(s), maxURL))
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		return invalid("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid("use http://HOST or https://HOST")
	case u.Hostname() == "" || u.Opaque != "":
		return invalid("the host is missing")
	case u.User != nil || strings.ContainsAny(s, "?#"):
		return invalid("user, query and fragment are not allowed")
	case !validPort(u):
		return invalid("the port is not within 1 and 65535")
	}
	return nil
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}
