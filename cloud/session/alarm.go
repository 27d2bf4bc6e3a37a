package session

import (
	"time"

	"ecowatt"
	"ecowatt/wire"
)

// AlarmPause is for how long the audit log is told nothing more of events of one
// kind that concern one device. Others cause them, as often as they like.
const AlarmPause = time.Hour

// Reason is the kind of a security event.
type Reason = wire.Reason

// Alarm is a number of security events of one kind that concern one device.
type Alarm struct {
	Device int64            // row of the device in the store
	Name   ecowatt.DeviceID // of the device
	Reason Reason
	Count  int64
	At     time.Time // of the last of them
}

// Told is what the audit log was told of the events of one kind.
type Told struct {
	At   time.Time // when it was last told; zero for never
	Rest int64     // events since
}

// Add adds events, and returns of how many the log is to be told now: 0 while it
// was told of others within AlarmPause, or where there are none. It is never told
// of an event twice.
func (t Told) Add(events int64, at time.Time) (Told, int64) {
	t.Rest += events
	age := at.Sub(t.At)
	if t.Rest == 0 || !t.At.IsZero() && age >= 0 && age < AlarmPause {
		return t, 0
	}
	return Told{At: at}, t.Rest
}
