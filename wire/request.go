package wire

import (
	"fmt"
	"math"
	"time"

	"ecowatt/key"
)

// Kind says what the body of a message is (section 4).
type Kind uint64

// The kinds of section 4.
const (
	KindTelemetry     Kind = 1 // TelemetryBlock
	KindLog           Kind = 2 // []LogEntry
	KindConfigAck     Kind = 3 // ConfigAck
	KindCommandResult Kind = 4 // CommandResult
	KindFotaStatus    Kind = 5 // FotaStatus
	KindInventory     Kind = 6 // Inventory
)

// String returns the name in section 4.
func (k Kind) String() string {
	switch k {
	case KindTelemetry:
		return "telemetry block"
	case KindLog:
		return "device log"
	case KindConfigAck:
		return "config_ack"
	case KindCommandResult:
		return "command_result"
	case KindFotaStatus:
		return "fota_status"
	case KindInventory:
		return "inventory"
	}
	return fmt.Sprintf("kind %d", uint64(k))
}

// Instant is a time since boot.
type Instant struct {
	Boot BootID
	Mono int64 // ms since that boot
}

// Wall is what a device believes of the time.
type Wall struct {
	At          int64 // ms since 1970
	Uncertainty int64 // ms by which At may be wrong, either way
}

// FirmwareState is how sure a device is of the image it runs.
type FirmwareState string

// The states of section 4, key 3.
const (
	FirmwareConfirmed  FirmwareState = "confirmed"
	FirmwareTrial      FirmwareState = "trial"
	FirmwareRolledBack FirmwareState = "rolled_back"
)

// Firmware is the image that a device runs.
type Firmware struct {
	Release     uint64   // release_seq
	Image       [32]byte // SHA-256 of the image
	State       FirmwareState
	MinSecurity uint32 // the least security_version that the device still takes
	Version     string // for people
}

// Epochs says which keys a device holds.
type Epochs struct {
	Active key.Epoch
	Staged key.Epoch // 0 for none
}

// Message is one thing that a device has to say. A retry carries the same id
// and the same bytes.
type Message struct {
	ID   MessageID
	Kind Kind
	Body []byte // one CBOR item, as the Encode function of its kind made it
}

// messageHeads is what a message takes in a request beside its body: the head
// of its array, its id, its kind.
const messageHeads = 1 + 17 + 1

// requestHeads bounds what a request takes beside its messages: a firmware
// version of 64 bytes and a checkpoint of 512 included.
const requestHeads = 1024

// EncodedSize returns how many bytes of a request's body the message takes.
func (m Message) EncodedSize() int { return messageHeads + len(m.Body) }

// MessageRoom returns how many bytes of messages (EncodedSize) surely fit in a
// request whose message has at most limit bytes.
func MessageRoom(limit int) int { return max(RequestRoom(limit)-requestHeads, 0) }

// MaxMessages is the most messages that one request carries.
const MaxMessages = maxArray

// Request is the body of a REQ (section 4).
type Request struct {
	At         Instant
	Wall       *Wall     // nil while unknown
	Firmware   *Firmware // nil when not told
	Messages   []Message // oldest first
	Epochs     *Epochs   // nil when not told
	MaxAnswer  uint32    // the largest RSP the device takes, bytes; 0 when not told: DefaultAnswer
	Checkpoint []byte    // newest audit checkpoint the device holds; empty for none
	// Hold is for how long the cloud may keep the answer back until there is
	// something to say, in whole seconds.
	Hold time.Duration
}

// AnswerLimit returns the largest RSP, in bytes, that the device takes.
func (q Request) AnswerLimit() int {
	if q.MaxAnswer == 0 {
		return DefaultAnswer
	}
	return int(min(q.MaxAnswer, MaxAnswer))
}

// EncodeRequest returns the body of a REQ. The error wraps ErrSchema; it comes
// of what breaks a limit of the protocol.
func EncodeRequest(q Request) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).instant(q.At)
	if q.Wall != nil {
		w := t.key(2)
		w.array(2)
		w.time(q.Wall.At)
		w.time(q.Wall.Uncertainty)
	}
	if q.Firmware != nil {
		t.key(3).firmware(*q.Firmware)
	}
	if len(q.Messages) > 0 {
		w := t.key(4)
		w.array(len(q.Messages))
		for _, m := range q.Messages {
			w.array(3)
			w.bytes(m.ID[:])
			w.uint(uint64(m.Kind))
			w.raw(m.Body)
		}
	}
	if q.Epochs != nil {
		w := t.key(5)
		w.array(2)
		w.uint(uint64(q.Epochs.Active))
		if q.Epochs.Staged == 0 {
			w.null()
		} else {
			w.uint(uint64(q.Epochs.Staged))
		}
	}
	if q.MaxAnswer > 0 {
		t.key(6).uint(uint64(q.MaxAnswer))
	}
	if len(q.Checkpoint) > 0 {
		t.key(7).bytes(q.Checkpoint)
	}
	if q.Hold > 0 {
		t.key(8).uint(uint64(wholeSeconds(q.Hold, math.MaxUint32)))
	}
	return w.done()
}

func (w *writer) instant(i Instant) {
	w.array(2)
	w.bytes(i.Boot[:])
	w.time(i.Mono)
}

func (w *writer) firmware(f Firmware) {
	t := w.table()
	t.key(1).uint(f.Release)
	t.key(2).bytes(f.Image[:])
	t.key(3).text(string(f.State))
	t.key(4).uint(uint64(f.MinSecurity))
	t.key(5).text(f.Version)
}

// DecodeRequest reads the body of a REQ. Bodies of messages are not looked
// into, beyond being CBOR as section 3 wants it; they and the checkpoint are
// parts of b. The error wraps ErrSchema.
func DecodeRequest(b []byte) (Request, error) {
	var q Request
	r := &reader{b: b}
	r.table(set(1), func(k uint64) bool {
		switch k {
		case 1:
			q.At = r.instant()
		case 2:
			q.Wall = &Wall{}
			r.tuple(2, func() { q.Wall.At, q.Wall.Uncertainty = r.time(), r.time() })
		case 3:
			q.Firmware = r.firmware()
		case 4:
			r.list(func() { q.Messages = append(q.Messages, r.message()) })
		case 5:
			q.Epochs = r.epochs()
		case 6:
			q.MaxAnswer = uint32(min(r.uint(), math.MaxUint32))
		case 7:
			q.Checkpoint = r.bytes()
		case 8:
			q.Hold = time.Duration(r.uintTo(math.MaxUint32)) * time.Second
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return Request{}, fmt.Errorf("reading a request: %w", r.err)
	}
	return q, nil
}

func (r *reader) instant() (i Instant) {
	r.tuple(2, func() { i.Boot, i.Mono = r.id(), r.time() })
	return i
}

func (r *reader) firmware() *Firmware {
	f := &Firmware{}
	r.table(set(1, 2, 3, 4, 5), func(k uint64) bool {
		switch k {
		case 1:
			f.Release = r.uint()
		case 2:
			r.fixed(f.Image[:])
		case 3:
			f.State = FirmwareState(r.text())
			if r.err == nil && f.State != FirmwareConfirmed && f.State != FirmwareTrial && f.State != FirmwareRolledBack {
				r.fail("no such firmware state")
			}
		case 4:
			f.MinSecurity = uint32(r.uintTo(math.MaxUint32))
		case 5:
			f.Version = r.text()
		default:
			return false
		}
		return true
	})
	return f
}

func (r *reader) message() (m Message) {
	r.tuple(3, func() { m = Message{ID: r.id(), Kind: Kind(r.uint()), Body: r.raw()} })
	return m
}

func (r *reader) epochs() *Epochs {
	e := &Epochs{}
	r.tuple(2, func() {
		e.Active = key.Epoch(r.uintTo(math.MaxUint32))
		if !r.null() {
			e.Staged = key.Epoch(r.uintTo(math.MaxUint32))
		}
	})
	return e
}
