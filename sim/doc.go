// Package sim simulates photovoltaic inverters that speak Modbus TCP: panels
// under a computed or a recorded sky, trackers, losses, clipping, an export
// limit with a ramp, night, and a grid that wanders.
//
// The model (sun, weather, module, grid, plant, site) takes steps of time and
// returns values; it has no clock, and the same seed gives the same values. A
// Simulator steps it as time passes and answers requests.
package sim
