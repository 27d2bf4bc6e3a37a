package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"ecowatt/internal/disk"
)

// Files in the gateway's folder.
const (
	RecordFile = "boot.json"
	EndedFile  = "ended.json" // how the run before ended, for the agent to tell; see Ended
)

// MaxRecordSize is the largest boot record that is read, in bytes: the last words
// of all failures fit, also where each byte of them takes six in JSON.
const MaxRecordSize = 64 << 10

// ErrRecord says that a boot record cannot be understood.
var ErrRecord = errors.New("the boot record cannot be understood")

// ParseRecord reads a boot record. Anything it does not know exactly is an
// error that wraps ErrRecord.
func ParseRecord(data []byte) (Record, error) {
	if len(data) > MaxRecordSize {
		return Record{}, fmt.Errorf("%w: %d bytes, at most %d are read", ErrRecord, len(data), MaxRecordSize)
	}
	var r Record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Record{}, fmt.Errorf("%w: something follows it", ErrRecord)
	}
	if problem := r.problem(); problem != "" {
		return Record{}, fmt.Errorf("%w: %s", ErrRecord, problem)
	}
	return r, nil
}

// problem says what is wrong with a record; "" for nothing.
func (r Record) problem() string {
	switch {
	case r.Format != 1:
		return fmt.Sprintf("format %d, this launcher knows 1", r.Format)
	case r.Active != A && r.Active != B:
		return fmt.Sprintf("slot %.20q, there are \"a\" and \"b\"", r.Active)
	case r.State != Confirmed && r.State != Trial && r.State != RolledBack:
		return fmt.Sprintf("state %.20q is not known", r.State)
	case r.Starts < 0 || r.Starts > TrialStarts || r.Starts > 0 && r.State != Trial:
		return fmt.Sprintf("%d starts are left in state %s", r.Starts, r.State)
	case r.State == Trial && r.Image(r.Active) == nil:
		return "an image is on trial that was never installed"
	case len(r.Failures) > maxFailures:
		return fmt.Sprintf("%d failures", len(r.Failures))
	}
	for _, image := range []*Image{r.A, r.B} {
		if image != nil && (!isHash(image.SHA256) || image.Size <= 0) {
			return "an image without hash or size"
		}
	}
	return ""
}

// isHash reports whether s is a SHA-256 in hexadecimal, in small letters.
func isHash(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == sha256.Size && s == strings.ToLower(s)
}

// ReadRecord reads the boot record of a gateway's folder; Initial where there is
// none. The error wraps ErrRecord where it cannot be understood.
func ReadRecord(folder disk.FS) (Record, error) {
	data, err := disk.ReadFile(folder, RecordFile, MaxRecordSize)
	if errors.Is(err, fs.ErrNotExist) {
		return Initial(), nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading the boot record: %w", err)
	}
	return ParseRecord(data)
}

// Write makes r the boot record of the gateway's folder; it is on the disk when
// Write returns.
func (r Record) Write(folder disk.FS) error {
	return write(folder, RecordFile, r)
}

// Ended is what the launcher tells the next agent of the run before it.
type Ended struct {
	Ending
	Slot    Slot   `json:"slot"`
	Detail  string `json:"detail"`  // "exit status 3", "signal: killed"
	Seconds int64  `json:"seconds"` // that it ran
}

// Write leaves e in the gateway's folder.
func (e Ended) Write(folder disk.FS) error { return write(folder, EndedFile, e) }

// TakeEnded reads and removes what the launcher left; false where there is
// nothing, or nothing that can be read.
func TakeEnded(folder disk.FS) (Ended, bool, error) {
	data, err := disk.ReadFile(folder, EndedFile, MaxRecordSize)
	if errors.Is(err, fs.ErrNotExist) {
		return Ended{}, false, nil
	}
	if err != nil {
		return Ended{}, false, fmt.Errorf("reading how the agent before ended: %w", err)
	}
	var e Ended
	readable := json.Unmarshal(data, &e) == nil
	return e, readable, disk.Delete(folder, EndedFile)
}

func write(folder disk.FS, name string, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = disk.WriteFile(folder, name, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
