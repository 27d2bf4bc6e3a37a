package wire

import (
	"fmt"

	"ecowatt"
)

// Level is how grave an entry of the device's log is.
type Level uint64

// The levels of section 4, kind 2.
const (
	LevelDebug Level = 0
	LevelInfo  Level = 1
	LevelWarn  Level = 2
	LevelError Level = 3
)

// LogEntry is one line of the device's log.
type LogEntry struct {
	At         int64 // ms since 1970; 0 where the clock was not known
	Level      Level
	Code       string // for programs
	Text       string // for people
	Attributes map[string]any
}

// EncodeLog returns the body of a message of KindLog.
func EncodeLog(entries []LogEntry) ([]byte, error) {
	w := &writer{}
	w.array(len(entries))
	for _, e := range entries {
		w.array(5)
		w.time(e.At)
		w.uint(uint64(e.Level))
		w.text(e.Code)
		w.text(e.Text)
		dict(w, e.Attributes, w.value)
	}
	return w.done()
}

// DecodeLog reads the body of a message of KindLog. The error wraps ErrSchema.
func DecodeLog(body []byte) ([]LogEntry, error) {
	var entries []LogEntry
	r := &reader{b: body}
	r.list(func() {
		r.tuple(5, func() {
			entries = append(entries, LogEntry{
				At: r.time(), Level: Level(r.uintTo(uint64(LevelError))), Code: r.text(), Text: r.text(), Attributes: r.values(),
			})
		})
	})
	r.end()
	if r.err != nil {
		return nil, fmt.Errorf("reading a log: %w", r.err)
	}
	return entries, nil
}

// Rejection says why a parameter was not taken.
type Rejection struct{ Code, Text string }

// ConfigAck is what a device did with a ConfigUpdate.
type ConfigAck struct {
	Revision  uint64
	Accepted  []string
	Rejected  map[string]Rejection
	Unchanged []string
}

// EncodeConfigAck returns the body of a message of KindConfigAck.
func EncodeConfigAck(a ConfigAck) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).uint(a.Revision)
	t.key(2).texts(a.Accepted)
	dict(t.key(3), a.Rejected, func(x Rejection) {
		w.array(2)
		w.text(x.Code)
		w.text(x.Text)
	})
	t.key(4).texts(a.Unchanged)
	return w.done()
}

// DecodeConfigAck reads the body of a message of KindConfigAck. The error wraps
// ErrSchema.
func DecodeConfigAck(body []byte) (ConfigAck, error) {
	a := ConfigAck{Rejected: map[string]Rejection{}}
	r := &reader{b: body}
	r.table(set(1, 2, 3, 4), func(k uint64) bool {
		switch k {
		case 1:
			a.Revision = r.uint()
		case 2:
			r.list(func() { a.Accepted = append(a.Accepted, r.text()) })
		case 3:
			r.dict(func(name string) {
				r.tuple(2, func() { a.Rejected[name] = Rejection{Code: r.text(), Text: r.text()} })
			})
		case 4:
			r.list(func() { a.Unchanged = append(a.Unchanged, r.text()) })
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return ConfigAck{}, fmt.Errorf("reading a config_ack: %w", r.err)
	}
	return a, nil
}

// CommandStatus is how far a command came.
type CommandStatus string

// The statuses of section 4, kind 4.
const (
	CommandExecuting CommandStatus = "executing"
	CommandSucceeded CommandStatus = "succeeded"
	CommandFailed    CommandStatus = "failed"
	CommandExpired   CommandStatus = "expired"
	CommandRejected  CommandStatus = "rejected"
	CommandNoEffect  CommandStatus = "no_effect"
)

func (s CommandStatus) known() bool {
	switch s {
	case CommandExecuting, CommandSucceeded, CommandFailed, CommandExpired, CommandRejected, CommandNoEffect:
		return true
	}
	return false
}

// CommandResult is what became of a command.
type CommandResult struct {
	ID         CommandID
	Status     CommandStatus
	Code       string // for programs
	Text       string // for people
	ExecutedAt int64  // ms since 1970; 0 where it was not executed or the clock was not known
	Value      any    // read back: int64 (int when encoding) or float64; nil for none
}

// EncodeCommandResult returns the body of a message of KindCommandResult.
func EncodeCommandResult(c CommandResult) ([]byte, error) {
	w := &writer{}
	if !c.Status.known() {
		w.fail("no such status of a command")
	}
	t := w.table()
	t.key(1).bytes(c.ID[:])
	t.key(2).text(string(c.Status))
	t.key(3).text(c.Code)
	t.key(4).text(c.Text)
	t.key(5).time(c.ExecutedAt)
	switch c.Value.(type) {
	case nil, int, int64, float64:
		t.key(6).value(c.Value)
	default:
		w.fail("a value of type %T", c.Value)
	}
	return w.done()
}

// DecodeCommandResult reads the body of a message of KindCommandResult. The
// error wraps ErrSchema.
func DecodeCommandResult(body []byte) (CommandResult, error) {
	var c CommandResult
	r := &reader{b: body}
	r.table(set(1, 2, 3, 4, 5, 6), func(k uint64) bool {
		switch k {
		case 1:
			c.ID = r.id()
		case 2:
			if c.Status = CommandStatus(r.text()); !c.Status.known() {
				r.fail("no such status of a command")
			}
		case 3:
			c.Code = r.textOrNull()
		case 4:
			c.Text = r.textOrNull()
		case 5:
			c.ExecutedAt = r.time()
		case 6:
			if !r.null() {
				c.Value = r.number()
			}
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return CommandResult{}, fmt.Errorf("reading a command_result: %w", r.err)
	}
	return c, nil
}

// FotaStatus is how far a firmware update came.
type FotaStatus struct {
	Manifest [32]byte // SHA-256 of the manifest
	Phase    string
	Done     uint64 // chunks
	All      uint64 // chunks
	Code     string // for programs; empty for none
	Text     string // for people
}

// EncodeFotaStatus returns the body of a message of KindFotaStatus.
func EncodeFotaStatus(s FotaStatus) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).bytes(s.Manifest[:])
	t.key(2).text(s.Phase)
	t.key(3).uint(s.Done)
	t.key(4).uint(s.All)
	t.key(5).textOrNull(s.Code)
	t.key(6).text(s.Text)
	return w.done()
}

// DecodeFotaStatus reads the body of a message of KindFotaStatus. The error
// wraps ErrSchema.
func DecodeFotaStatus(body []byte) (FotaStatus, error) {
	var s FotaStatus
	r := &reader{b: body}
	r.table(set(1, 2, 3, 4, 5, 6), func(k uint64) bool {
		switch k {
		case 1:
			r.fixed(s.Manifest[:])
		case 2:
			s.Phase = r.text()
		case 3:
			s.Done = r.uint()
		case 4:
			s.All = r.uint()
		case 5:
			s.Code = r.textOrNull()
		case 6:
			s.Text = r.textOrNull()
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return FotaStatus{}, fmt.Errorf("reading a fota_status: %w", r.err)
	}
	return s, nil
}

// Inventory is what a device is made of, sent after every start and change.
type Inventory struct {
	AgentVersion   string
	Hardware       string
	Inverters      map[string]Inverter // by name
	ControlAllowed bool
}

// Inverter is one inverter of a device.
type Inverter struct {
	Profile        string
	ProfileVersion string
	Points         []ecowatt.Point
	Serial         string // empty when not known
	Model          string // empty when not known
}

// maxExponent is the largest scale exponent, up or down (see ecowatt.Point).
const maxExponent = 10

// EncodeInventory returns the body of a message of KindInventory.
func EncodeInventory(v Inventory) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).text(v.AgentVersion)
	t.key(2).text(v.Hardware)
	dict(t.key(3), v.Inverters, w.inverter)
	t.key(4).bool(v.ControlAllowed)
	return w.done()
}

func (w *writer) inverter(v Inverter) {
	t := w.table()
	t.key(1).text(v.Profile)
	t.key(2).text(v.ProfileVersion)
	p := t.key(3)
	p.array(len(v.Points))
	for _, x := range v.Points {
		p.array(6)
		p.text(x.Name)
		p.text(x.Unit)
		p.int(int64(x.Exponent))
		p.bool(x.Writable)
		p.int(x.Min)
		p.int(x.Max)
	}
	t.key(4).text(v.Serial)
	t.key(5).text(v.Model)
}

// DecodeInventory reads the body of a message of KindInventory. The error wraps
// ErrSchema.
func DecodeInventory(body []byte) (Inventory, error) {
	v := Inventory{Inverters: map[string]Inverter{}}
	r := &reader{b: body}
	r.table(set(1, 2, 3, 4), func(k uint64) bool {
		switch k {
		case 1:
			v.AgentVersion = r.text()
		case 2:
			v.Hardware = r.text()
		case 3:
			r.dict(func(name string) { v.Inverters[name] = r.inverter() })
		case 4:
			v.ControlAllowed = r.bool()
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return Inventory{}, fmt.Errorf("reading an inventory: %w", r.err)
	}
	return v, nil
}

func (r *reader) inverter() (v Inverter) {
	r.table(set(1, 2, 3), func(k uint64) bool {
		switch k {
		case 1:
			v.Profile = r.text()
		case 2:
			v.ProfileVersion = r.text()
		case 3:
			r.list(func() { v.Points = append(v.Points, r.point()) })
		case 4:
			v.Serial = r.textOrNull()
		case 5:
			v.Model = r.textOrNull()
		default:
			return false
		}
		return true
	})
	return v
}

func (r *reader) point() (p ecowatt.Point) {
	r.tuple(6, func() {
		p = ecowatt.Point{Name: r.text(), Unit: r.text(), Exponent: r.exponent(), Writable: r.bool(), Min: r.bound(), Max: r.bound()}
	})
	return p
}

func (r *reader) exponent() int {
	n := r.int()
	if n < -maxExponent || n > maxExponent {
		r.fail("a scale exponent out of range")
		return 0
	}
	return int(n)
}

// bound reads the least or greatest value of a point; null is 0, as devices may
// write it for a point that is not writable.
func (r *reader) bound() int64 {
	if r.null() {
		return 0
	}
	return r.int()
}
