// Package ecowatt holds the words that every part of EcoWatt shares: device
// names, points, raw values, samples and blocks of samples. It does no I/O and
// knows no clock.
//
// A device is the agent on a gateway. It reads one or more inverters; each has
// points (named measurements, "vac1"), each point has a unit and a decimal
// exponent, and a reading of it is the raw integer of the inverter's register.
// Raw integers are carried unchanged from the register to the chart; only who
// shows them to a person scales them (see Decimal).
package ecowatt

// Version is the version of the programs of this repository, as in
// "ecowatt 0.1.0". It is shown to people and reported in inventories; nothing
// is decided by it.
const Version = "0.1.0"

// Product names what images of the agent are for, as 16 bytes: this agent, on a
// gateway with Linux. Releases carry it, and a device installs no others. As
// text it is ec0a7700-6761-4e74-9000-6c696e757801.
const Product = "\xec\x0a\x77\x00\x67\x61\x4e\x74\x90\x00\x6c\x69\x6e\x75\x78\x01"
