// Package command carries out what the cloud orders: it writes and reads points
// of inverters, keeps power limits for as long as they are lent, and answers for
// every command.
//
// A command has its effect once or not at all. Before a write the journal holds
// what was found and what is to stand there; after a crash the inverter is read to
// find out what happened, and the write is never repeated. docs/commands.md says
// what each command does and what it may answer.
//
// An Engine has no goroutine and no clock, and reaches the world by what Options
// give it: the gateway's folder, the inverters, the time and a way to wait.
package command

import (
	"encoding/hex"
	"math"
	"time"
)

// ID names a command for ever.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes the id in hexadecimal digits.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(text []byte) error {
	var read ID
	if len(text) != hex.EncodedLen(len(read)) {
		return hex.ErrLength
	}
	_, err := hex.Decode(read[:], text)
	*id = read
	return err
}

// Command is what the cloud orders (protocol, section 5).
type Command struct {
	ID        ID
	Sequence  uint64 // commands are carried out in its order
	NotAfter  int64  // ms since 1970
	Action    string
	Arguments map[string]any // text, []any, int64 and float64
}

// The actions.
const (
	WritePoint    = "write_point"
	SetPowerLimit = "set_power_limit"
	ReadPoints    = "read_points"
	RestartAgent  = "restart_agent"
)

// Status is how far a command came.
type Status string

// The statuses (protocol, section 4, kind 4).
const (
	Executing Status = "executing"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Expired   Status = "expired"
	Rejected  Status = "rejected"
	NoEffect  Status = "no_effect"
)

// Code says why a command ended as it did.
type Code string

// The closed set of codes.
const (
	CodeStarted Code = "started"

	CodeDone       Code = "done"
	CodeUnchanged  Code = "unchanged"
	CodeNotInForce Code = "not_in_force"

	CodeControlNotAllowed Code = "control_not_allowed"
	CodeUnknownAction     Code = "unknown_action"
	CodeBadArgument       Code = "bad_argument"
	CodeUnknownInverter   Code = "unknown_inverter"
	CodeUnknownPoint      Code = "unknown_point"
	CodeNotWritable       Code = "not_writable"
	CodeOutOfRange        Code = "out_of_range"
	CodeRequires          Code = "requires"
	CodeWriteBudget       Code = "write_budget"
	CodeOutOfOrder        Code = "out_of_order"

	CodeTooLate Code = "too_late"

	CodeInverterAway   Code = "inverter_away"
	CodeRefused        Code = "refused"
	CodeNotTaken       Code = "not_taken"
	CodeOverwritten    Code = "overwritten"
	CodeInterrupted    Code = "interrupted"
	CodeUnknownOutcome Code = "unknown_outcome"
	CodeStorageFailed  Code = "storage_failed"

	CodeNoEffect Code = "no_effect"
)

// Meaning is a row of the table of codes: every code belongs to one status.
type Meaning struct {
	Code   Code
	Status Status
	Text   string // when it is given
}

// Meanings lists all codes, by status.
func Meanings() []Meaning {
	return []Meaning{
		{CodeStarted, Executing, "the inverter was written to, and is being watched"},
		{CodeDone, Succeeded, "done: what was written was read back, or the points were read, or the agent was restarted"},
		{CodeUnchanged, Succeeded, "it stood there already; nothing was written"},
		{CodeNotInForce, Succeeded, "the limit is kept, but a more restrictive one is in force"},
		{CodeControlNotAllowed, Rejected, "whoever installed the gateway has not set `allow_control`"},
		{CodeUnknownAction, Rejected, "this agent does not know the action"},
		{CodeBadArgument, Rejected, "an argument is missing or makes no sense; the text names it"},
		{CodeUnknownInverter, Rejected, "the gateway has no inverter of this name"},
		{CodeUnknownPoint, Rejected, "the profile of the inverter has no such point, or no power limit"},
		{CodeNotWritable, Rejected, "the profile does not declare the point writable"},
		{CodeOutOfRange, Rejected, "the value is outside of what the profile allows"},
		{CodeRequires, Rejected, "the inverter's owner has not set what the profile requires"},
		{CodeWriteBudget, Rejected, "the register was written as often as it may be on one day"},
		{CodeOutOfOrder, Rejected, "a later command was carried out before this one came"},
		{CodeTooLate, Expired, "the time until which the command was to be begun is over"},
		{CodeInverterAway, Failed, "the inverter did not answer; nothing was written"},
		{CodeRefused, Failed, "the inverter refused; the text has its exception"},
		{CodeNotTaken, Failed, "the write was sent, but what was there before was read back"},
		{CodeOverwritten, Failed, "something else was read back than what was there and what was written"},
		{CodeInterrupted, Failed, "the agent was stopped or lost power before the inverter was written to"},
		{CodeUnknownOutcome, Failed, "nobody knows: the write was sent, and the inverter could not be read afterwards"},
		{CodeStorageFailed, Failed, "the journal cannot be written; nothing was done"},
		{CodeNoEffect, NoEffect, "the limit was taken and read back, but the power does not follow"},
	}
}

// status is the one that the code belongs to.
func (c Code) status() Status {
	for _, m := range Meanings() {
		if m.Code == c {
			return m.Status
		}
	}
	return Failed
}

// Result is what became of a command.
type Result struct {
	ID         ID      `json:"id"`
	Code       Code    `json:"code"`
	Text       string  `json:"text"`            // for people
	ExecutedAt int64   `json:"executed_at"`     // ms since 1970; 0 where it was not executed
	Value      *Number `json:"value,omitempty"` // read back; nil for none
}

// Status is that of the result's code.
func (r Result) Status() Status { return r.Code.status() }

// Number is a value in the unit of its point: raw × 10^exponent.
type Number struct {
	Raw      int64 `json:"raw"`
	Exponent int   `json:"exponent"`
}

// Float is the value as close as a floating-point number comes.
func (n Number) Float() float64 {
	if n.Exponent < 0 { // a quotient of whole numbers is the closest one
		return float64(n.Raw) / math.Pow10(-n.Exponent)
	}
	return float64(n.Raw) * math.Pow10(n.Exponent)
}

// Moment is an instant on the two clocks of a gateway.
type Moment struct {
	Boot  ID            // names the boot that Mono counts from
	Mono  time.Duration // since then, steadily
	Known bool          // whether the time is known,
	Wall  time.Duration // then: since 1970,
	Width time.Duration // and by how much that may be wrong, either way
}

// ms is the wall time in ms since 1970; 0 where it is not known.
func (m Moment) ms() int64 {
	if !m.Known {
		return 0
	}
	return m.Wall.Milliseconds()
}
