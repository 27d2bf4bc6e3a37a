// Package inverter describes inverters by data: a profile lists the registers
// of a model, a plan reads chosen points of them in as few requests as
// possible, and a register turns words into a raw value and back. It does no
// I/O: whoever has a connection carries out the reads.
package inverter

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of the protocol (Modbus Application Protocol V1.1b3, sections 6.3 and
// 6.4) and of what follows from them.
const (
	MaxBlock    = 125          // registers in one read
	MaxGap      = MaxBlock - 2 // registers in one read besides the first and the last
	MaxExponent = 10           // of a point, either way
)

// Table is one of the two sets of registers that an inverter has. Its value is
// the Modbus function that reads it (V1.1b3, sections 6.3 and 6.4).
type Table byte

// The tables.
const (
	Holding Table = 3 // read and written
	Input   Table = 4 // only read
)

func (t Table) String() string {
	switch t {
	case Holding:
		return "holding"
	case Input:
		return "input"
	}
	return fmt.Sprintf("table %d", byte(t))
}

// Read asks for Count registers of a table, beginning at the wire address
// Address (counted from 0; documents of makers often count from 1).
type Read struct {
	Table   Table
	Address uint16
	Count   uint16 // 1 … MaxBlock
}

// Profile describes one model of inverter.
type Profile struct {
	Name      string // as ecowatt.ParseName accepts it
	Title     string // for people
	Source    string // where the facts are from
	Trust     Trust
	Unit      byte // the unit id such an inverter has when nothing else is set
	Block     int  // most registers that it answers in one read; 1 … MaxBlock
	Gap       int  // most registers nobody asked for that a read may carry along; 0 … MaxGap
	Timing    Timing
	Sleeping  Sleeping
	Heartbeat Heartbeat
	Registers []Register
	Texts     []Text

	WriteMultiple bool // single registers are written by function 16 too
}

// Trust says what a profile rests on.
type Trust byte

// The degrees of trust.
const (
	Installer Trust = iota // whoever wrote the file
	Community              // what users of such inverters have published; not tried by EcoWatt
	Verified               // tried by EcoWatt
)

// Trusts lists all degrees of trust in their order.
func Trusts() []Trust { return []Trust{Installer, Community, Verified} }

func (t Trust) String() string {
	switch t {
	case Installer:
		return "installer"
	case Community:
		return "community"
	case Verified:
		return "verified"
	}
	return fmt.Sprintf("trust %d", byte(t))
}

// Timing is the pace an inverter needs. Zero is the transport's default.
type Timing struct {
	Connect time.Duration // from a connection to the first request
	Gap     time.Duration // from an answer to the next request
	Timeout time.Duration // of an answer
}

// Sleeping says how an inverter that answers tells that it sleeps: Point has one
// of Values. The zero Sleeping is one that never tells.
type Sleeping struct {
	Point  string
	Values []int64 // raw
}

// Heartbeat is registers that change as long as readings are fresh, as a clock
// does. The zero Heartbeat is none.
type Heartbeat struct {
	Table   Table
	Address uint16
	Words   int // 1 … MaxHeartbeat
}

// MaxHeartbeat is the most words of a heartbeat.
const MaxHeartbeat = 8

// Given reports whether there is one.
func (h Heartbeat) Given() bool { return h.Words > 0 }

// Read is what brings the heartbeat.
func (h Heartbeat) Read() Read { return Read{h.Table, h.Address, uint16(h.Words)} }

// Text is a string that an inverter holds: two characters in a word, the first
// one in the high byte.
type Text struct {
	Name    string // Serial, Model or another
	Table   Table
	Address uint16
	Words   int // 1 … MaxText
}

// The texts that every inventory has room for, and how long any may be.
const (
	Serial  = "serial"
	Model   = "model"
	MaxText = 32 // words
)

// Read is what brings the text.
func (t Text) Read() Read { return Read{t.Table, t.Address, uint16(t.Words)} }

// Decode returns the text in words, up to the first zero, without what cannot
// be printed and without spaces around it; empty if there is none.
func (t Text) Decode(words []uint16) string {
	var b strings.Builder
	for _, w := range words {
		for _, c := range [2]byte{byte(w >> 8), byte(w)} {
			if c == 0 {
				return strings.TrimSpace(b.String())
			}
			if c >= ' ' && c < 0x7f {
				b.WriteByte(c)
			}
		}
	}
	return strings.TrimSpace(b.String())
}

// Register returns the register of the point name.
func (p Profile) Register(name string) (Register, bool) {
	i := slices.IndexFunc(p.Registers, func(r Register) bool { return r.Point.Name == name })
	if i < 0 {
		return Register{}, false
	}
	return p.Registers[i], true
}

// PointNames returns the names of all points, in the profile's order.
func (p Profile) PointNames() []string {
	names := make([]string, len(p.Registers))
	for i, r := range p.Registers {
		names[i] = r.Point.Name
	}
	return names
}

// unknownPoint names what there is instead of the point name.
func (p Profile) unknownPoint(name string) error {
	return fmt.Errorf("%.80q is no point of profile %s, which has %s", name, p.Name, strings.Join(p.PointNames(), ", "))
}
