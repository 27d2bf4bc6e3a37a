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

// InvalidError says which field of a request is wrong, and how.
type InvalidError struct {
	Field   string // as named in JSON: "device_id", "group", "cloud_url"
	Problem string // for people, lower-case
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

// Device is what the cloud knows of a device, without its keys.
type Device struct {
	ID        ecowatt.DeviceID
	Group     string // "" when in none
	Notes     string
	TimeZone  string // IANA name; days begin at midnight there
	Disabled  bool
	CreatedAt time.Time
	Epoch     key.Epoch // active key epoch
	KeySince  time.Time // when that key was first used, or handed out
	Rotation  *Rotation // the next key; nil when none is pending
	Recovery  time.Time // until when its first key is let in again, perhaps past; zero for never
	Cloned    time.Time // when it last seemed that two devices have its key; zero for never
	LastSeen  time.Time // commit of the last accepted exchange; zero when never
	Inventory Inventory // as last reported; zero before the first report
	Firmware  Firmware  // as last reported
	Config    Config    // how far its configuration is
	Update    Update    // that a rollout wants of it; zero for none
}

// Update is a release on its way to a device, in the words of package rollout.
type Update struct {
	Rollout string // id; empty for none
	State   string // of the rollout
	Version string // of the release
	Release uint64
	Phase   string
	Since   time.Time // of the phase
}

// Config is how far the configuration of a device is.
type Config struct {
	Revision uint64 // what is desired; 0: nothing ever was
	Pending  bool   // the device has not answered it yet
	Drift    int    // parameters that it answered for and does not have as desired
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

// Report is what one accepted exchange says of the device itself. It becomes
// what is known of the device in the transaction that accepts the exchange.
type Report struct {
	At        time.Time  // when the exchange was accepted; becomes LastSeen
	Firmware  *Firmware  // nil when the device did not say
	Inventory *Inventory // nil when the device did not say
}

// News says which parts of a Report are not what was known before.
type News struct{ Firmware, Inventory bool }

// Change is what people may change of a device. A nil field stays as it is.
type Change struct {
	Group    *string
	Notes    *string
	TimeZone *string
	Disabled *bool // true also ends every session of the device, in the same transaction
}

// Check says what of the change is not allowed, as an *InvalidError.
func (c Change) Check() error {
	if c.Group != nil {
		if err := checkGroup(*c.Group); err != nil {
			return err
		}
	}
	if c.Notes != nil {
		if err := checkNotes(*c.Notes); err != nil {
			return err
		}
	}
	if c.TimeZone != nil {
		return checkTimeZone(*c.TimeZone)
	}
	return nil
}
