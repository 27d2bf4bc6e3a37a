package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ecowatt"
	"ecowatt/cloud/rollup"
)

// Limits of a telemetry block. A block beyond them is invalid.
const (
	MaxSamples = 4096                // as many as an array of the wire may have
	MaxPoints  = 4095                // columns, as many as there is room for beside the times
	MaxSpan    = 32 * 24 * time.Hour // from t0 to the last sample
)

// A sample is taken after earliest (2015-01-01, in ms since 1970) and not later
// than slack from now: another time comes from a clock that was never set.
const (
	earliest = 1_420_070_400_000
	slack    = 24 * time.Hour
)

// The codecs of PROTOCOL section 6.
const (
	CodecPlain  = 0
	CodecPacked = 1 // package block
)

// Telemetry is a telemetry block as a device sends it (PROTOCOL section 6),
// its data still encoded.
type Telemetry struct {
	Inverter string
	Points   []string
	T0       int64 // ms since 1970; without meaning where Boot is set
	Codec    uint64
	Count    uint64   // samples
	Data     []byte   // as it came, in the way of the codec
	Boot     *Instant // time of t0 since boot, where the clock was not known; else nil
	Window   int64    // ms, of windows in place of samples; 0 for samples
}

// Block is a telemetry block that passed Check: what the store keeps.
type Block struct {
	Inverter string
	Points   []string
	Codec    uint64
	Count    int
	Data     []byte   // as it came
	Span     int64    // ms from t0 to the last sample
	Placed   bool     // whether T0 is known
	T0       int64    // ms since 1970
	Boot     *Instant // time of t0 since boot, where the device sent that; else nil
	Window   int64    // ms: what the device sent are windows (see ecowatt.Aggregate); 0 for samples

	// Of a block that is placed: what its samples say of minutes and quarters.
	Minutes, Quarters rollup.Table
}

// Condense makes Minutes and Quarters of a placed block, by decoding it.
func (b *Block) Condense() error {
	samples, err := b.decode()
	if err != nil {
		return fmt.Errorf("decoding a block of %s: %w", b.Inverter, err)
	}
	b.condense(samples)
	return nil
}

// condense does so with samples whose times are since t0, and makes them times
// since 1970.
func (b *Block) condense(samples []ecowatt.Sample) {
	for i := range samples {
		samples[i].At += b.T0
	}
	b.Minutes, b.Quarters = rollup.Collect(b.Points, samples, b.Window)
}

// Quarters works out the quarters of a chunk anew, from all blocks of one list of
// points that reach into it; start is when the chunk begins, ms since 1970.
func Quarters(blocks []Block, start int64) (rollup.Table, error) {
	if len(blocks) == 0 {
		return nil, nil
	}
	type piece struct {
		ecowatt.Sample
		window int64
	}
	var pieces []piece
	for _, b := range blocks {
		samples, err := b.decode()
		if err != nil {
			return nil, fmt.Errorf("decoding a block of %s: %w", b.Inverter, err)
		}
		for _, s := range samples {
			if s.At += b.T0; s.At >= start && s.At < start+rollup.Chunk {
				pieces = append(pieces, piece{s, b.Window})
			}
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.At, b.At) })
	var table rollup.Table
	for len(pieces) > 0 {
		window := pieces[0].window
		var run []ecowatt.Sample
		for len(pieces) > 0 && pieces[0].window == window {
			run, pieces = append(run, pieces[0].Sample), pieces[1:]
		}
		_, quarters := rollup.Collect(blocks[0].Points, run, window)
		table, _ = table.Merge(blocks[0].Points, quarters)
	}
	return table, nil
}

// columns is the number of values of a sample, or of a window.
func (b Block) columns() int { return ecowatt.Columns(len(b.Points), b.Window) }

// InvalidError says why a message can never be stored. Its text goes to the
// device and into the log, and repeats nothing of the device's own bytes.
type InvalidError struct{ Problem string }

func (e *InvalidError) Error() string { return e.Problem }

func invalid(format string, args ...any) error {
	return &InvalidError{Problem: fmt.Sprintf(format, args...)}
}

// Check decodes the block once, against the limits, and says what is wrong
// with it as an *InvalidError: names, an unknown codec, data that does not
// decode to what the block announces, times that cannot be true at now.
func Check(t Telemetry, now time.Time) (Block, error) {
	if _, err := ecowatt.ParseName("inverter", t.Inverter); err != nil {
		return Block{}, invalid("the inverter's name is not valid")
	}
	if err := checkPoints(t.Points); err != nil {
		return Block{}, err
	}
	if t.Window != 0 && (t.Window < ecowatt.MinWindow || t.Window > ecowatt.MaxWindow) {
		return Block{}, invalid("windows of %d ms; a window has %d to %d", t.Window, ecowatt.MinWindow, ecowatt.MaxWindow)
	}
	if t.Codec > CodecPacked {
		return Block{}, invalid("codec %d is not known here; use codec %d or %d", t.Codec, CodecPlain, CodecPacked)
	}
	if t.Count == 0 || t.Count > MaxSamples {
		return Block{}, invalid("%d samples; a block has 1 to %d", t.Count, MaxSamples)
	}
	b := Block{Inverter: t.Inverter, Points: t.Points, Codec: t.Codec, Count: int(t.Count), Data: t.Data, Boot: t.Boot, Window: t.Window}
	if n := b.columns(); n > MaxPoints {
		return Block{}, invalid("%d columns of %d points; a block has at most %d", n, len(b.Points), MaxPoints)
	}
	samples, err := b.decode()
	if err != nil {
		return Block{}, err
	}
	if b.Span, err = span(samples); err != nil {
		return Block{}, err
	}
	if b.Window != 0 {
		if err := checkWindows(samples, b.Window); err != nil {
			return Block{}, err
		}
	}
	switch {
	case b.Boot != nil && (b.Boot.Mono < 0 || b.Boot.Mono > maxMono):
		return Block{}, invalid("the time since boot is out of range")
	case b.Boot == nil && !sane(t.T0, b.Span, now):
		return Block{}, invalid("t0 cannot be true: before 2015 or in the future")
	case b.Boot == nil:
		b.T0, b.Placed = t.T0, true
		b.condense(samples)
	}
	return b, nil
}

// span returns the ms from t0 to the last of at least one sample.
func span(samples []ecowatt.Sample) (int64, error) {
	var last int64
	for i, s := range samples {
		if s.At < last {
			return 0, invalid("sample %d is before t0 or the sample before it", i)
		}
		last = s.At
	}
	if last > MaxSpan.Milliseconds() {
		return 0, invalid("the samples span more than %d days", MaxSpan/(24*time.Hour))
	}
	return last, nil
}

// checkWindows says what is wrong with windows whose times do not go back.
func checkWindows(samples []ecowatt.Sample, window int64) error {
	for i, s := range samples {
		if s.At%window != 0 || i > 0 && s.At == samples[i-1].At {
			return invalid("window %d does not begin where one ends", i)
		}
		for v := range slices.Chunk(s.Values, ecowatt.Aggregates) {
			mean, least, most, count := v[ecowatt.Mean], v[ecowatt.Least], v[ecowatt.Most], v[ecowatt.Count]
			known := mean.Valid && least.Valid && most.Valid && least.Raw <= mean.Raw && mean.Raw <= most.Raw
			missing := !mean.Valid && !least.Valid && !most.Valid
			if !count.Valid || count.Raw < 0 || count.Raw > maxCount || count.Raw > 0 && !known || count.Raw == 0 && !missing {
				return invalid("window %d has columns that do not fit one another", i)
			}
		}
	}
	return nil
}

// maxCount is the most values of a window: that of a day has one per ms.
const maxCount = ecowatt.MaxWindow

// maxMono is a hundred years in ms: no device has been up for longer.
const maxMono = 100 * 366 * 24 * 3600 * 1000

func checkPoints(points []string) error {
	if len(points) == 0 || len(points) > MaxPoints {
		return invalid("%d points; a block has 1 to %d", len(points), MaxPoints)
	}
	seen := make(map[string]bool, len(points))
	for i, p := range points {
		if _, err := ecowatt.ParseName("point", p); err != nil {
			return invalid("the name of point %d is not valid", i)
		}
		if seen[p] {
			return invalid("point %d is named twice", i)
		}
		seen[p] = true
	}
	return nil
}

func sane(t0, span int64, now time.Time) bool {
	return t0 >= earliest && t0 <= now.Add(slack).UnixMilli()-span
}

// decode returns the samples with At in ms since t0.
func (b Block) decode() ([]ecowatt.Sample, error) {
	switch b.Codec {
	case CodecPlain:
		return decodePlain(b.Data, b.columns(), b.Count)
	case CodecPacked:
		return decodePacked(b.Data, b.columns(), b.Count)
	}
	return nil, invalid("codec %d is not known here", b.Codec)
}

// Select returns what q asks for of a stored and placed block: the samples of
// its time, with the points it names in its order, missing where the block has
// no such point. Windows stay windows, at the times at which they begin.
// It reports false when nothing of the block is asked for.
// describe gives unit and exponent of a point.
func Select(q Query, b Block, describe func(inverter, point string) ecowatt.Point) (Part, bool, error) {
	columns, ok := b.pick(q.Points)
	if !ok || !b.Placed || q.Inverter != "" && q.Inverter != b.Inverter {
		return Part{}, false, nil
	}
	samples, err := b.decode()
	if err != nil {
		return Part{}, false, fmt.Errorf("decoding a block of %s: %w", b.Inverter, err)
	}
	from, to := q.From.UnixMilli(), q.To.UnixMilli()
	kept := samples[:0]
	for _, s := range samples {
		s.At += b.T0
		if s.At < from || s.At >= to {
			continue
		}
		if columns != nil {
			s.Values = pick(s.Values, columns)
		}
		kept = append(kept, s)
	}
	if len(kept) == 0 {
		return Part{}, false, nil
	}
	names := b.Points
	if columns != nil {
		names = q.Points
	}
	part := Part{Inverter: b.Inverter, Window: b.Window, Points: make([]ecowatt.Point, len(names)), Samples: kept}
	for i, name := range names {
		part.Points[i] = describe(b.Inverter, name)
	}
	return part, true, nil
}

// pick maps the points asked for to columns of the block, below 0 for one that
// the block has not; nil means all of them as they are. It reports false when
// the block has none of them.
func (b Block) pick(points []string) ([]int, bool) {
	if len(points) == 0 {
		return nil, true
	}
	columns, found := make([]int, 0, ecowatt.Columns(len(points), b.Window)), false
	each := ecowatt.Columns(1, b.Window)
	for _, p := range points {
		at := slices.Index(b.Points, p)
		found = found || at >= 0
		for i := range each {
			columns = append(columns, at*each+i) // of a point that is not there: below 0
		}
	}
	return columns, found
}

func pick(values []ecowatt.Value, columns []int) []ecowatt.Value {
	picked := make([]ecowatt.Value, len(columns))
	for i, c := range columns {
		if c >= 0 {
			picked[i] = values[c]
		}
	}
	return picked
}
