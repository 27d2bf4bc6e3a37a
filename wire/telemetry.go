package wire

import (
	"fmt"

	"ecowatt"
)

// The codecs of section 6.
const (
	CodecPlain  = 0 // plain lists
	CodecPacked = 1 // a byte string, which package block makes
)

// TelemetryBlock is the body of a telemetry block (section 6).
type TelemetryBlock struct {
	Inverter string
	Points   []string
	T0       int64    // ms since 1970, from which the times in Data count; 0 where Boot is set
	Codec    uint64   // of Data
	Count    uint64   // samples
	Data     []byte   // one CBOR item, in the way of the codec
	Boot     *Instant // the time of t0, where the clock was not known yet; else nil
	Window   int64    // ms, of windows in place of samples (section 6); 0 for samples
}

// EncodeTelemetry returns the body of a message of KindTelemetry.
func EncodeTelemetry(b TelemetryBlock) ([]byte, error) {
	w := &writer{}
	t := w.table()
	t.key(1).text(b.Inverter)
	t.key(2).texts(b.Points)
	t.key(3).time(b.T0)
	t.key(4).uint(b.Codec)
	t.key(5).uint(b.Count)
	t.key(6).raw(b.Data)
	if b.Boot != nil {
		t.key(7).instant(*b.Boot)
	}
	if b.Window != 0 {
		checkWindow(b.Window, w.fail)
		t.critical(1).time(b.Window)
	}
	return w.done()
}

// DecodeTelemetry reads the body of a message of KindTelemetry. Data is a part
// of body and not looked into. The error wraps ErrSchema.
func DecodeTelemetry(body []byte) (TelemetryBlock, error) {
	var b TelemetryBlock
	r := &reader{b: body}
	critical := func(k uint64) bool {
		if k != 1 {
			return false
		}
		b.Window = r.time()
		checkWindow(b.Window, r.fail)
		return true
	}
	seen := r.tableWith(set(1, 2, 4, 5, 6), critical, func(k uint64) bool {
		switch k {
		case 1:
			b.Inverter = r.text()
		case 2:
			r.list(func() { b.Points = append(b.Points, r.text()) })
		case 3:
			b.T0 = r.time()
		case 4:
			b.Codec = r.uint()
		case 5:
			b.Count = r.uint()
		case 6:
			b.Data = r.raw()
		case 7:
			i := r.instant()
			b.Boot = &i
		default:
			return false
		}
		return true
	})
	if !seen.has(3) && !seen.has(7) {
		r.fail("neither t0 nor the time since boot")
	}
	r.end()
	if r.err != nil {
		return TelemetryBlock{}, fmt.Errorf("reading a telemetry block: %w", r.err)
	}
	return b, nil
}

// checkWindow fails where windows of so many ms are none.
func checkWindow(ms int64, fail func(string, ...any)) {
	if ms < ecowatt.MinWindow || ms > ecowatt.MaxWindow {
		fail("windows of %d ms, of %d to %d that may be", ms, ecowatt.MinWindow, ecowatt.MaxWindow)
	}
}

// PlainBlock packs a block with codec 0, which the cloud unpacks where it keeps
// blocks (cloud/ingest). The times of its samples are ms
// since 1970 where boot is nil, else ms since that boot; they must not go back.
func PlainBlock(b ecowatt.Block, boot *BootID) (TelemetryBlock, error) {
	t, err := newBlock(b, boot, CodecPlain)
	if err != nil {
		return TelemetryBlock{}, err
	}
	t0 := b.Samples[0].At
	w := &writer{}
	w.array(1 + b.Columns())
	w.array(len(b.Samples))
	last := t0
	for _, s := range b.Samples {
		if s.At < last || len(s.Values) != b.Columns() {
			return TelemetryBlock{}, fmt.Errorf("packing a block: %w: a sample is out of order or has not one value per column", ErrSchema)
		}
		last = s.At
		w.time(s.At - t0)
	}
	for p := range b.Columns() {
		w.array(len(b.Samples))
		for _, s := range b.Samples {
			if v := s.Values[p]; v.Valid {
				w.int(v.Raw)
			} else {
				w.null()
			}
		}
	}
	t.Data, err = w.done()
	return t, err
}

// PackedBlock is PlainBlock for codec 1: packed holds the samples of b as package
// block packs them, with times since the first.
func PackedBlock(b ecowatt.Block, boot *BootID, packed []byte) (TelemetryBlock, error) {
	t, err := newBlock(b, boot, CodecPacked)
	if err != nil {
		return TelemetryBlock{}, err
	}
	w := &writer{}
	w.bytes(packed)
	t.Data, err = w.done()
	return t, err
}

func newBlock(b ecowatt.Block, boot *BootID, codec uint64) (TelemetryBlock, error) {
	if len(b.Samples) == 0 {
		return TelemetryBlock{}, fmt.Errorf("packing a block: %w: no samples", ErrSchema)
	}
	t0 := b.Samples[0].At
	t := TelemetryBlock{Inverter: b.Inverter, Points: b.Points, T0: t0, Codec: codec, Count: uint64(len(b.Samples)), Window: b.Window}
	if boot != nil {
		t.T0, t.Boot = 0, &Instant{Boot: *boot, Mono: t0}
	}
	return t, nil
}
