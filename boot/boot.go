// Package boot decides, for the launcher, which slot's agent runs and when an
// agent that ended is started again. It holds values and rules only; starting
// and watching is package launch.
//
// A gateway has two slots, DIR/slots/a and DIR/slots/b, each with one agent
// program. The record DIR/boot.json names the slot in force. Without a record
// slot a is in force: that is how a gateway leaves the workshop.
package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Slot is one of the two places an agent program is kept in.
type Slot string

// The two slots.
const (
	A Slot = "a"
	B Slot = "b"
)

// Program is the path of the agent program of slot s below the gateway's
// folder.
func (s Slot) Program() string { return "slots/" + string(s) + "/ecowatt-agent" }

// RecordFile is the name of the boot record in the gateway's folder.
const RecordFile = "boot.json"

// MaxRecordSize is the largest boot record that is read, in bytes.
const MaxRecordSize = 4096

// State says how far the image of the slot in force is trusted.
type State string

// Confirmed is the state of an image that has proven itself; it is started
// again for ever.
const Confirmed State = "confirmed"

// Record is the durable memory of the launcher.
type Record struct {
	Format int   `json:"format"` // 1
	Active Slot  `json:"active"`
	State  State `json:"state"`
}

// Initial is the record in force where none has been written.
func Initial() Record { return Record{Format: 1, Active: A, State: Confirmed} }

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
	switch {
	case r.Format != 1:
		return Record{}, fmt.Errorf("%w: format %d, this launcher knows 1", ErrRecord, r.Format)
	case r.Active != A && r.Active != B:
		return Record{}, fmt.Errorf("%w: slot %.20q, there are \"a\" and \"b\"", ErrRecord, r.Active)
	case r.State != Confirmed:
		return Record{}, fmt.Errorf("%w: state %.20q is not known", ErrRecord, r.State)
	}
	return r, nil
}

// The pauses before an ended agent is started again.
const (
	FirstPause = time.Second      // after the first quick end
	LongPause  = time.Minute      // never longer than this
	SteadyRun  = 60 * time.Second // an agent that ran this long counts as healthy: the pauses begin anew
)

// Pause is how long to wait before starting the agent again, after it ended
// for the quick-th time in a row (1, 2, …) without a steady run between.
func Pause(quick int) time.Duration {
	pause := FirstPause
	for range quick - 1 {
		pause *= 2
		if pause >= LongPause {
			return LongPause
		}
	}
	return pause
}

// Quick counts ends in a row: given the count so far and how long the agent
// ran this time, it is the new count.
func Quick(before int, ran time.Duration) int {
	if ran >= SteadyRun {
		return 1
	}
	return before + 1
}
