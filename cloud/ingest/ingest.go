// Package ingest owns what devices send to be kept: telemetry blocks as they
// came, and the rule by which a message takes effect once (PROTOCOL section 7,
// rule 5).
package ingest

import (
	"time"

	"ecowatt"
)

// Query selects samples of one device.
type Query struct {
	Device   ecowatt.DeviceID
	Inverter string    // only this one; empty for all
	From, To time.Time // samples with From <= time < To
	Points   []string  // only these, in this order; empty for all
}

// Part is a run of samples of one inverter that share their points: what a
// query yields, oldest first per inverter.
type Part struct {
	Inverter string
	Points   []ecowatt.Point  // unit and exponent as the inventory says
	Samples  []ecowatt.Sample // At in ms since 1970
}
