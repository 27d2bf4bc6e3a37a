package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Energy is what the counters of an inverter stand at, in Wh. Those that are
// read roll over; these do not.
type Energy struct {
	Today float64 `json:"today_wh"` // since midnight by the weather's clock
	Total float64 `json:"total_wh"`
}

// The state of a simulator as a file has it.
type state struct {
	Format    int      `json:"format"`
	Inverters []Energy `json:"inverters"` // by their units
}

const (
	stateFormat = 1

	// MaxState is the most bytes that a state takes.
	MaxState = 1 << 16
	maxWh    = 1e15
)

// EncodeState returns the file that ParseState reads.
func EncodeState(all []Energy) ([]byte, error) {
	text, err := json.MarshalIndent(state{stateFormat, all}, "", "  ")
	return append(text, '\n'), err
}

// ParseState reads what the counters of inverters stood at.
func ParseState(text []byte) ([]Energy, error) {
	var s state
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return nil, fmt.Errorf("no state of a simulator: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("no state of a simulator: something follows it")
	}
	if s.Format != stateFormat {
		return nil, fmt.Errorf("format %d; this program knows %d", s.Format, stateFormat)
	}
	for i, e := range s.Inverters {
		if !(e.Today >= 0 && e.Total >= e.Today-1e-6 && e.Total <= maxWh) || math.IsNaN(e.Today) {
			return nil, fmt.Errorf("inverter %d: %g Wh today and %g Wh in all cannot be", i+1, e.Today, e.Total)
		}
	}
	return s.Inverters, nil
}
