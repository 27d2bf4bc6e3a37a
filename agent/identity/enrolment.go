package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ecowatt"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// Limits of an enrolment file.
const (
	MaxEnrolmentSize = 16 << 10 // bytes
	maxURL           = 512      // bytes
)

// Enrolment is what a new device needs to find the cloud and to prove itself.
type Enrolment struct {
	Device       ecowatt.DeviceID
	CloudURL     string
	Credential   Credential
	FirmwareRoot []byte // empty while there is none
}

// The fields of an enrolment file (PROTOCOL section 11).
const (
	fieldDevice = "device_id"
	fieldURL    = "cloud_url"
	fieldEpoch  = "epoch"
	fieldID     = "psk_id"
	fieldKey    = "key"
	fieldRoot   = "firmware_root"
)

// fields returns them in the order in which they are checked.
func fields() []string {
	return []string{fieldDevice, fieldURL, fieldEpoch, fieldID, fieldKey, fieldRoot}
}

// ParseEnrolment reads an enrolment file: one JSON object with exactly the
// fields of PROTOCOL section 11. The error is one line that names the field,
// and never repeats what stands in the field of the key.
func ParseEnrolment(data []byte) (Enrolment, error) {
	if len(data) > MaxEnrolmentSize {
		return Enrolment{}, fmt.Errorf("no enrolment file: larger than %d bytes", MaxEnrolmentSize)
	}
	values, err := object(data)
	if err != nil {
		return Enrolment{}, err
	}
	var e Enrolment
	for _, field := range fields() {
		raw, ok := values[field]
		if !ok {
			return Enrolment{}, fmt.Errorf("%s: missing", field)
		}
		if err := e.set(field, raw); err != nil {
			return Enrolment{}, fmt.Errorf("%s: %w", field, err)
		}
	}
	return e, nil
}

// object reads a JSON object with only the fields of an enrolment file, each at
// most once and spelled exactly so. What is no JSON is told by its place alone:
// it may be a part of the key.
func object(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	broken := func() error { return fmt.Errorf("not a JSON object: wrong after byte %d", d.InputOffset()) }
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, broken()
	}
	values := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, broken()
		}
		if !slices.Contains(fields(), name) {
			return nil, fmt.Errorf("%.40q is no field of an enrolment file", name)
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("%s: stands twice", name)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, broken()
		}
		values[name] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, broken()
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return values, nil
}

// set sets one field of e from its JSON.
func (e *Enrolment) set(field string, raw json.RawMessage) error {
	if field == fieldEpoch {
		n, err := strconv.ParseUint(string(raw), 10, 32)
		if err != nil || n == 0 {
			return errors.New("a whole number from 1 to 4294967295 is wanted")
		}
		e.Credential.Epoch = key.Epoch(n)
		return nil
	}
	if raw[0] != '"' {
		return errors.New("a text is wanted")
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return errors.New("a text is wanted")
	}
	var err error
	switch field {
	case fieldDevice:
		e.Device, err = ecowatt.ParseDeviceID(text)
	case fieldURL:
		e.CloudURL, err = ParseCloudURL(text)
	case fieldID:
		e.Credential.ID, err = parseID(text)
	case fieldKey:
		e.Credential.Key, err = parseKey(text)
	case fieldRoot:
		e.FirmwareRoot, err = decodeBase64(text)
	}
	return err
}

func parseID(text string) (key.ID, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != key.IDSize {
		return key.ID{}, fmt.Errorf("%d hexadecimal digits are wanted", 2*key.IDSize)
	}
	return key.ID(b), nil
}

func parseKey(text string) (key.Device, error) {
	b, err := decodeBase64(text)
	if err != nil {
		return key.Device{}, err
	}
	defer clear(b)
	return key.DeviceFromBytes(b)
}

// decodeBase64 reads base64 in its one spelling (RFC 4648 section 4).
func decodeBase64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("not base64")
	}
	return b, nil
}

// ParseCloudURL checks the address of a cloud: http or https, a host, at most a
// path. It returns it without a slash at the end.
func ParseCloudURL(s string) (string, error) {
	if len(s) > maxURL {
		return "", fmt.Errorf("longer than %d bytes", maxURL)
	}
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "", errors.New("empty; an address like https://cloud.example.org is wanted")
	case err != nil || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return "", fmt.Errorf("%.100q is not of the form https://HOST", s)
	case u.Hostname() == "":
		return "", fmt.Errorf("%.100q names no host", s)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("user, query and fragment are not allowed")
	case !validPort(u):
		return "", fmt.Errorf("%.100q: the port is not within 1 and 65535", s)
	}
	return strings.TrimRight(s, "/"), nil
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

// Enroll makes the gateway's folder that of a device: the key first, then
// identity.json, which is what makes it enrolled. When it returns nil, all of
// it is durable; when power fails before that, the device is enrolled or it is
// not, and Enroll can be called again. Enrolling with a key that the device holds
// is fine, and changes none. The error wraps ErrOther, and nothing changes, when
// the folder is another device's, or this device's with other keys.
func (f Folder) Enroll(e Enrolment) error {
	now, err := readIdentity(f.FS)
	enrolled := err == nil
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		return err
	}
	if !enrolled {
		return f.enroll(e)
	}
	if now.Device != e.Device {
		return fmt.Errorf("%w: as device %s", ErrOther, now.Device)
	}
	held, _, err := f.readSlots()
	if err != nil {
		return err
	}
	keys, some := resolve(held)
	switch {
	case !some:
		return f.enroll(e)
	case !keys.Hold(e.Credential):
		return fmt.Errorf("%w: as device %s, with another key; to give it a new one remove %s and %s first", ErrOther, now.Device, identityFile, keysFolder)
	}
	return writeIdentity(f.FS, e.identity())
}

func (e Enrolment) identity() Identity {
	return Identity{Device: e.Device, CloudURL: e.CloudURL, FirmwareRoot: e.FirmwareRoot}
}

// enroll writes the key and then the identity. What the other slot may hold is
// nobody's; of a higher epoch it would be taken for this device's key.
func (f Folder) enroll(e Enrolment) error {
	if err := disk.MkdirAll(f.FS, keysFolder, folderMode); err != nil {
		return err
	}
	if err := f.remove(1); err != nil {
		return err
	}
	if err := f.write(0, slot{Credential: e.Credential, state: active}); err != nil {
		return err
	}
	return writeIdentity(f.FS, e.identity())
}
