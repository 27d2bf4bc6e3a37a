// Package sim simulates photovoltaic inverters that speak Modbus: panels under a
// computed or a recorded sky, trackers, losses, clipping, an export limit with a
// ramp, night, and a grid that wanders, and that an inverter must leave when its
// voltage is too high.
//
// The model (sun, weather, module, grid, plant, site) takes steps of time and
// returns values; it has no clock, and the same seed gives the same values. A
// Simulator steps it as time passes and answers requests, on every transport at
// once. What stands in the registers of an inverter and what can be ordered there
// is laid out by a profile, or is a SunSpec map (layout, control, sunspec, words);
// a layout does not change, what was written is kept beside it. How it misbehaves is decided by package fault, which knows no clock
// either; a fault acts where a server is about to send an answer (face.go).
package sim
