// Package inverter describes inverters by data: a profile lists the registers
// of a model, a plan reads chosen points of them in as few requests as
// possible, and a register turns words into a raw value and back. It does no
// I/O: whoever has a connection carries out the reads.
package inverter

import (
	"fmt"
	"slices"
	"strings"
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
	Unit      byte   // the unit id such an inverter has when nothing else is set
	Block     int    // most registers that it answers in one read; 1 … MaxBlock
	Gap       int    // most registers nobody asked for that a read may carry along; 0 … MaxGap
	Registers []Register
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
