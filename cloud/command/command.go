// Package command owns what a device is told to do: which commands may be
// queued, in what order they go out, and what becomes of each (rows X1 to X6).
//
// The commands of a device are strictly ordered. Each stands in every answer to
// the device, from the time it is queued until the device has said how it ended
// or its deadline is over; sending it marks nothing as done. What happened on the
// inverter only the device knows: its own report is always the last word, also
// where the cloud had given the command up.
package command

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"ecowatt"
)

// Bounds of how long a command may wait to be executed.
const (
	DefaultTTL = 15 * time.Minute
	MinTTL     = time.Second
	MaxTTL     = 30 * 24 * time.Hour
)

// Patience is for how long after its deadline a command that was delivered may
// go without the device's last word before the cloud gives it up.
const Patience = time.Hour

// ID names a command, or an order for a group.
type ID [16]byte

// NewID draws an id. random is a cryptographic source.
func NewID(random io.Reader) (id ID, err error) {
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ID{}, fmt.Errorf("drawing an id: %w", err)
	}
	return id, nil
}

// ParseID reads 32 hexadecimal digits.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("%.80q is no id: it has %d hexadecimal digits", s, 2*len(ID{}))
	}
	return ID(b), nil
}

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Command is something for a device to do, and what became of it.
type Command struct {
	ID     ID
	Device ecowatt.DeviceID
	Seq    int64 // cmd_seq: the commands of a device are in its order
	Order  ID    // that it is a part of; zero for none
	Task   Task
	By     string // the operator's name

	Progress
	Code  string // why it ended so, for programs; the device's, or one of the Codes
	Text  string // the same for people
	Value any    // that the device read back: int64 or float64; nil for none

	QueuedAt    time.Time
	ExpiresAt   time.Time // it is neither sent nor executed later
	DeliveredAt time.Time // when it was first sent; zero for not yet
	ExecutingAt time.Time // when the device first said so; zero for never
	ExecutedAt  time.Time // by the device's clock; zero where it was not, or the time was not known
	EndedAt     time.Time // when it was known how it ended; zero while it is not
}

// Codes of what the cloud says of a command by itself.
const (
	CodeUndelivered = "undelivered" // expired: the device did not come for it
	CodeUnanswered  = "unanswered"  // expired: it was sent, and the device did not say what became of it
)

// Due returns when the cloud gives the command up; zero when there is nothing to
// wait for.
func (c Command) Due() time.Time {
	switch c.State { //nolint:exhaustive // the others have ended
	case Queued:
		return c.ExpiresAt
	case Delivered, Executing:
		return c.ExpiresAt.Add(Patience)
	}
	return time.Time{}
}

// Standing reports whether the command belongs into the answers to its device.
func (c Command) Standing(now time.Time) bool { return c.State.Open() && now.Before(c.ExpiresAt) }

// Sent is the command once an answer carries it. The second result says whether
// that changes it.
func (c Command) Sent(at time.Time) (Command, bool) {
	if !c.move(Send) {
		return c, false
	}
	c.DeliveredAt = at
	return c, true
}

// TooLateError says that a command cannot be cancelled any more.
type TooLateError struct{ State State }

func (e *TooLateError) Error() string {
	switch e.State { //nolint:exhaustive // the others have ended
	case Delivered, Executing:
		return fmt.Sprintf("it is %s: the device has it, or may have it, and says what becomes of it", e.State)
	}
	return fmt.Sprintf("it is %s already", e.State)
}

// Cancel is the command once an operator has cancelled it, which works until it
// is delivered: then it is a *TooLateError. Again it changes nothing.
func (c Command) Cancel(by string, at time.Time) (Command, bool, error) {
	if c.State == Cancelled {
		return c, false, nil
	}
	if !c.move(Cancel) {
		return c, false, &TooLateError{State: c.State}
	}
	c.Code, c.Text, c.EndedAt = "", "cancelled by "+by, at
	return c, true, nil
}

// Lapse is the command once the cloud has given it up, which it does when it is
// due.
func (c Command) Lapse(at time.Time) (Command, bool) {
	due, was := c.Due(), c.State
	if due.IsZero() || at.Before(due) || !c.move(Lapse) {
		return c, false
	}
	c.EndedAt = at
	if c.Code, c.Text = CodeUndelivered, "the device did not come for it in time; it was not executed"; was != Queued {
		c.Code, c.Text = CodeUnanswered, "it was sent, and the device has not said what became of it; its report may still come, and counts"
	}
	return c, true
}

// Status is how far a command came, in the words of a device.
type Status string

// The closed set of statuses (protocol, section 4, kind 4).
const (
	StatusExecuting Status = "executing"
	StatusSucceeded Status = "succeeded"
	StatusFailed    Status = "failed"
	StatusExpired   Status = "expired"
	StatusRejected  Status = "rejected"
	StatusNoEffect  Status = "no_effect"
)

// event is what a report means for the state of its command.
func (s Status) event() Event {
	switch s {
	case StatusExecuting:
		return ReportExecuting
	case StatusSucceeded:
		return ReportSucceeded
	case StatusExpired:
		return ReportExpired
	case StatusFailed, StatusRejected, StatusNoEffect:
		return ReportFailed
	}
	return ReportFailed
}

// Report is what a device says of a command. Its words are the device's.
type Report struct {
	ID         ID
	Status     Status
	Code, Text string
	ExecutedAt time.Time // zero where it was not executed, or the time was not known
	Value      any       // int64 or float64; nil for none
}

// Reported is the command once its device has reported. A repetition changes
// nothing, nor does anything after the device's last word.
func (c Command) Reported(r Report, at time.Time) (Command, bool) {
	if !c.move(r.Status.event()) {
		return c, false
	}
	c.Code, c.Text, c.Value = r.Code, r.Text, r.Value
	c.ExecutedAt = r.ExecutedAt
	if r.Status == StatusExecuting {
		c.ExecutingAt, c.EndedAt = at, time.Time{}
		return c, true
	}
	c.EndedAt = at
	if c.Code == "" && (r.Status == StatusRejected || r.Status == StatusNoEffect) {
		c.Code = string(r.Status) // failed does not say it
	}
	return c, true
}

// Event is how the log names what the command has just become, and Line what it
// says of it to people.
func (c Command) Event() string { return "command." + string(c.State) }

// Line says for people what the command is and what became of it.
func (c Command) Line() string {
	line := c.Task.String() + ": " + string(c.State)
	if c.Code != "" && c.Text == "" {
		return line + ", " + c.Code
	}
	if c.Text != "" {
		return line + ", " + c.Text
	}
	return line
}

// Attrs are the details that the log keeps of what the command has just become.
func (c Command) Attrs() map[string]string {
	attrs := map[string]string{"command": c.ID.String(), "action": string(c.Task.Action)}
	if c.Order != (ID{}) {
		attrs["order"] = c.Order.String()
	}
	if c.State == Queued {
		attrs["expires_at"] = c.ExpiresAt.Format(time.RFC3339)
	}
	if c.Code != "" {
		attrs["code"] = c.Code
	}
	if c.Value != nil {
		attrs["value"] = fmt.Sprint(c.Value)
	}
	if !c.ExecutedAt.IsZero() {
		attrs["executed_at"] = c.ExecutedAt.Format(time.RFC3339Nano)
	}
	return attrs
}
