package wire

import (
	"fmt"
	"math"
	"time"

	"ecowatt/key"
)

// Status is what became of one message (section 5).
type Status uint64

// The statuses of section 5.
const (
	Stored    Status = 0
	Duplicate Status = 1 // stored before
	Invalid   Status = 2 // never send it again
	Conflict  Status = 3 // same id, other bytes; the first stays
	Later     Status = 4 // keep it
)

// Settles reports whether the message may leave the device's queue. A status
// that this version does not know settles nothing.
func (s Status) Settles() bool { return s <= Conflict }

// String returns a word for people.
func (s Status) String() string {
	switch s {
	case Stored:
		return "stored"
	case Duplicate:
		return "duplicate"
	case Invalid:
		return "invalid"
	case Conflict:
		return "conflict"
	case Later:
		return "later"
	}
	return fmt.Sprintf("status %d", uint64(s))
}

// Result says what became of one message of the request.
type Result struct {
	ID     MessageID
	Status Status
	Text   string // for people; empty for none
}

// ConfigUpdate is the configuration that the cloud wants.
type ConfigUpdate struct {
	Revision   uint64
	Parameters map[string]any // see Command.Arguments for the values
}

// EncodedSize returns how many bytes of an answer's body the update takes, with its
// key; it is beyond every answer where it cannot be encoded.
func (u ConfigUpdate) EncodedSize() int {
	w := &writer{}
	w.config(u)
	b, err := w.done()
	if err != nil {
		return MaxAnswer
	}
	return 1 + len(b)
}

// Command is something for the device to do.
type Command struct {
	ID       CommandID
	Sequence uint64 // cmd_seq: commands of one device are in its order
	NotAfter int64  // ms since 1970
	Action   string
	// Arguments has values of type bool, int64 (int when encoding), float64,
	// string, []byte, []any and map[string]any, or nil.
	Arguments map[string]any
}

// EncodedSize returns how many bytes of an answer's body the command takes; it is
// beyond every answer where it cannot be encoded.
func (c Command) EncodedSize() int {
	w := &writer{}
	w.command(c)
	b, err := w.done()
	if err != nil {
		return MaxAnswer
	}
	return len(b)
}

// KeyOffer is the key of the next epoch.
type KeyOffer struct {
	Epoch key.Epoch
	ID    key.ID
	Key   key.Device // no key when it was one that a device must refuse
	Burn  bool       // destroy the old key at once
}

// FirmwareOffer is an image for the device.
type FirmwareOffer struct {
	Manifest    [32]byte // SHA-256 of the manifest
	Envelope    []byte
	Content     key.Content
	Path        string // of the folder of artifacts
	RootUpdates [][]byte
	Downgrades  [][]byte // signed statements that let devices go back to an older release
}

// Failure says why a request that opened had no effect at all.
type Failure struct {
	Code Reason // ExchangeSchema, of those of section 10
	Text string // for people; empty for none
}

// Answer is the body of an RSP (section 5).
type Answer struct {
	ServerTime int64 // ms since 1970
	Results    []Result
	Config     *ConfigUpdate  // nil for none
	Commands   []Command      // in order of Sequence
	KeyOffer   *KeyOffer      // nil for none
	Firmware   *FirmwareOffer // nil for none
	NextSlot   time.Duration  // until the next exchange, whole seconds; 0 when not told
	Checkpoint string         // signed audit checkpoint; empty for none
	Failure    *Failure       // nil unless the request was not understood
}

// EncodeAnswer returns the body of an RSP. The error wraps ErrSchema; it comes
// of what breaks a limit of the protocol.
func EncodeAnswer(a Answer) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).time(a.ServerTime)
	if len(a.Results) > 0 {
		w := t.key(2)
		w.array(len(a.Results))
		for _, x := range a.Results {
			w.array(3)
			w.bytes(x.ID[:])
			w.uint(uint64(x.Status))
			w.textOrNull(x.Text)
		}
	}
	if a.Config != nil {
		t.key(3).config(*a.Config)
	}
	if len(a.Commands) > 0 {
		w := t.key(4)
		w.array(len(a.Commands))
		for _, c := range a.Commands {
			w.command(c)
		}
	}
	if a.KeyOffer != nil {
		t.key(5).keyOffer(*a.KeyOffer)
	}
	if a.Firmware != nil {
		t.key(6).firmwareOffer(*a.Firmware)
	}
	if a.NextSlot > 0 {
		t.key(7).uint(uint64(wholeSeconds(a.NextSlot, math.MaxUint32)))
	}
	if a.Checkpoint != "" {
		t.key(8).text(a.Checkpoint)
	}
	if a.Failure != nil {
		w := t.key(9)
		w.array(2)
		w.text(string(a.Failure.Code))
		w.textOrNull(a.Failure.Text)
	}
	return w.done()
}

func (w *writer) config(u ConfigUpdate) {
	w.array(2)
	w.uint(u.Revision)
	dict(w, u.Parameters, w.value)
}

func (w *writer) command(c Command) {
	w.array(5)
	w.bytes(c.ID[:])
	w.uint(c.Sequence)
	w.time(c.NotAfter)
	w.text(c.Action)
	dict(w, c.Arguments, w.value)
}

func (w *writer) keyOffer(o KeyOffer) {
	if o.Key.IsZero() {
		w.fail("an offer without a key")
	}
	secret := o.Key.Secret()
	defer clear(secret[:])
	t := w.table()
	t.key(1).uint(uint64(o.Epoch))
	t.key(2).bytes(o.ID[:])
	t.key(3).bytes(secret[:])
	t.key(4).bool(o.Burn)
}

func (w *writer) firmwareOffer(o FirmwareOffer) {
	if o.Content.IsZero() {
		w.fail("an offer without a key")
	}
	secret := o.Content.Secret()
	defer clear(secret[:])
	t := w.table()
	t.key(1).bytes(o.Manifest[:])
	t.key(2).bytes(o.Envelope)
	t.key(3).bytes(secret[:])
	t.key(4).text(o.Path)
	u := t.key(5)
	u.array(len(o.RootUpdates))
	for _, b := range o.RootUpdates {
		u.bytes(b)
	}
	if len(o.Downgrades) > 0 {
		u := t.key(6)
		u.array(len(o.Downgrades))
		for _, b := range o.Downgrades {
			u.bytes(b)
		}
	}
}

// DecodeAnswer reads the body of an RSP. The error wraps ErrSchema.
func DecodeAnswer(b []byte) (Answer, error) {
	var a Answer
	r := &reader{b: b}
	r.table(set(1), func(k uint64) bool {
		switch k {
		case 1:
			a.ServerTime = r.time()
		case 2:
			r.list(func() { a.Results = append(a.Results, r.result()) })
		case 3:
			a.Config = &ConfigUpdate{}
			r.tuple(2, func() { a.Config.Revision, a.Config.Parameters = r.uint(), r.values() })
		case 4:
			r.list(func() { a.Commands = append(a.Commands, r.command()) })
		case 5:
			a.KeyOffer = r.keyOffer()
		case 6:
			a.Firmware = r.firmwareOffer()
		case 7:
			a.NextSlot = time.Duration(r.uintTo(math.MaxUint32)) * time.Second
		case 8:
			a.Checkpoint = r.text()
		case 9:
			a.Failure = &Failure{}
			r.tuple(2, func() { a.Failure.Code, a.Failure.Text = Reason(r.text()), r.textOrNull() })
		default:
			return false
		}
		return true
	})
	r.end()
	if r.err != nil {
		return Answer{}, fmt.Errorf("reading an answer: %w", r.err)
	}
	return a, nil
}

func (r *reader) result() (x Result) {
	r.tuple(3, func() { x = Result{ID: r.id(), Status: Status(r.uint()), Text: r.textOrNull()} })
	return x
}

func (r *reader) command() (c Command) {
	r.tuple(5, func() {
		c = Command{ID: r.id(), Sequence: r.uint(), NotAfter: r.time(), Action: r.text(), Arguments: r.values()}
	})
	return c
}

func (r *reader) keyOffer() *KeyOffer {
	o := &KeyOffer{}
	r.table(set(1, 2, 3, 4), func(k uint64) bool {
		switch k {
		case 1:
			o.Epoch = key.Epoch(r.uintTo(math.MaxUint32))
		case 2:
			o.ID = r.id()
		case 3:
			// A weak key is for whoever judges the offer to refuse, by name:
			// the rest of the answer stands.
			if offered, err := key.DeviceFromBytes(r.bytes()); err == nil {
				o.Key = offered
			}
		case 4:
			o.Burn = r.bool()
		default:
			return false
		}
		return true
	})
	return o
}

func (r *reader) firmwareOffer() *FirmwareOffer {
	o := &FirmwareOffer{}
	r.table(set(1, 2, 3, 4, 5), func(k uint64) bool {
		switch k {
		case 1:
			r.fixed(o.Manifest[:])
		case 2:
			o.Envelope = r.bytes()
		case 3:
			if content, err := key.ContentFromBytes(r.bytes()); err == nil {
				o.Content = content
			}
		case 4:
			o.Path = r.text()
		case 5:
			r.list(func() { o.RootUpdates = append(o.RootUpdates, r.bytes()) })
		case 6:
			r.list(func() { o.Downgrades = append(o.Downgrades, r.bytes()) })
		default:
			return false
		}
		return true
	})
	return o
}
