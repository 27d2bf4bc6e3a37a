// Package registry knows the fleet: which devices there are, what each last
// said of itself, and how one is added. It owns the enrolment file
// (PROTOCOL section 11); the keys in the store are wrapped (row S5).
package registry

import (
	"errors"
	"time"

	"ecowatt"
	"ecowatt/key"
)

// Errors of the registry.
var (
	ErrExists   = errors.New("a device of this name exists already")
	ErrNotFound = errors.New("no such device")
)

// Device is what the cloud knows of a device, without its keys.
type Device struct {
	ID        ecowatt.DeviceID
	Group     string // "" when in none
	Notes     string
	Disabled  bool
	CreatedAt time.Time
	Epoch     key.Epoch // active key epoch
	LastSeen  time.Time // commit of the last accepted exchange; zero when never
	Inventory Inventory // as last reported; zero before the first report
	Firmware  Firmware  // as last reported
}

// Inventory is what a device reports of itself after every start and change
// (PROTOCOL section 4, kind 6).
type Inventory struct {
	ReportedAt     time.Time // zero when never
	AgentVersion   string
	Hardware       string
	ControlAllowed bool
	Inverters      []Inverter // by name
}

// Inverter is one inverter of a device's inventory.
type Inverter struct {
	Name           string
	Profile        string
	ProfileVersion string
	Serial         string
	Model          string
	Points         []ecowatt.Point
}

// Firmware is what a device reports of its running image in its requests.
type Firmware struct {
	Release uint64
	State   string // "confirmed", "trial" or "rolled_back"; empty before the first report
	Version string
}

// Filter selects devices, by id in ascending order.
type Filter struct {
	Group string           // only those of this group; empty for all
	After ecowatt.DeviceID // only those with a greater id
	Limit int              // at most so many, 0 for the store's limit (1,000)
}
