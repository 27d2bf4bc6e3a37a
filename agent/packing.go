package agent

import (
	"fmt"
	"io"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/block"
	"ecowatt/wire"
)

// The words of Packing.Compression.
const (
	CompressNone = "none" // codec 0
	CompressFast = "fast" // codec 1
	CompressBest = "best" // the shorter of both
)

// Packing says how samples become messages. It may be another one for each pack.
// The zero Packing is the shortest without loss.
type Packing struct {
	Compression string // CompressNone, CompressFast or CompressBest; empty for the last
	PayloadCap  int    // bytes that a message of samples has at most, however coarse; 0 for any
	Window      int64  // ms, of windows that take the place of samples; 0 for samples
}

// A payload cap is reached by windows that are so many times as long as those that
// there are, or as a second: by the first that does it.
var coarser = [...]int64{2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400}

// encoder makes messages of blocks.
type encoder struct {
	Packing
	random io.Reader
	emit   func(m buffer.Message, samples int) error
}

// encodeRun makes telemetry messages of a run, oldest first: one, or where that
// would be larger than leastRoom those of its halves. Their times are since 1970
// where the run's are or its boot has a place, else since the boot, for the cloud
// to place them.
func (e encoder) encodeRun(r buffer.Run, place placer) error {
	b := ecowatt.Block{Inverter: r.Inverter, Points: r.Points, Samples: r.Samples, Window: r.Window}
	var since *wire.BootID
	if !r.UTC {
		boot, first := wire.BootID(r.Boot), r.Samples[0].At
		if at := place(boot, first); at != 0 {
			b.Samples = shifted(b.Samples, at-first)
		} else {
			since = &boot
		}
	}
	if divides(b.Window, e.Window) {
		if w := inWindows(b, e.Window); len(w.Samples) < len(b.Samples) { // else they say no more than the samples
			b = w
		}
	}
	return e.encode(b, since)
}

// divides reports whether windows of from, 0 for samples, fit into longer ones.
func divides(from, to int64) bool { return to > from && (from == 0 || to%from == 0) }

// inWindows returns a block in longer windows. What was once a sample or a window
// of b is in one of them; a run that ends within a window leaves the rest of it
// to the next.
func inWindows(b ecowatt.Block, window int64) ecowatt.Block {
	b.Samples, b.Window = ecowatt.Aggregate(b.Samples, b.Window, window), window
	return b
}

// shifted returns the samples with times that are by ms later.
func shifted(samples []ecowatt.Sample, by int64) []ecowatt.Sample {
	later := make([]ecowatt.Sample, len(samples))
	for i, s := range samples {
		later[i] = ecowatt.Sample{At: s.At + by, Values: s.Values}
	}
	return later
}

// encode emits messages of a block that are no larger than they may be.
func (e encoder) encode(b ecowatt.Block, since *wire.BootID) error {
	if b.Window != 0 && b.Columns() > block.MaxPoints && e.Compression != CompressNone {
		return e.encodePoints(b, since) // or they could not be packed
	}
	m, err := e.message(b, since)
	if err != nil {
		return err
	}
	capped := e.PayloadCap > 0 && e.PayloadCap < leastRoom()
	n := len(b.Samples)
	switch size := wireMessage(m).EncodedSize(); {
	case capped && size > e.PayloadCap:
		return e.encodeCapped(b, since, m)
	case n == 1 || size <= leastRoom():
		return e.emit(m, n)
	}
	for _, half := range [][]ecowatt.Sample{b.Samples[:n/2], b.Samples[n/2:]} {
		b.Samples = half
		if err := e.encode(b, since); err != nil {
			return err
		}
	}
	return nil
}

// encodeCapped emits a block of which the message exceeds the cap, in the shortest
// windows that do not. Where none are long enough, it takes a message for each half
// of the points; the last point goes in the longest windows that there are.
func (e encoder) encodeCapped(b ecowatt.Block, since *wire.BootID, m buffer.Message) error {
	for _, times := range coarser {
		window := times * max(b.Window, ecowatt.MinWindow)
		if window > ecowatt.MaxWindow {
			break
		}
		c := inWindows(b, window)
		if c.Columns() > block.MaxPoints && e.Compression != CompressNone {
			break
		}
		if len(c.Samples)*c.Columns() > len(b.Samples)*b.Columns() && len(c.Samples) > 1 {
			continue // that is no less
		}
		var err error
		if m, err = e.message(c, since); err != nil {
			return err
		}
		if wireMessage(m).EncodedSize() <= e.PayloadCap {
			return e.emit(m, len(b.Samples))
		}
	}
	if len(b.Points) == 1 {
		return e.emit(m, len(b.Samples))
	}
	return e.encodePoints(b, since)
}

// encodePoints encodes a block in two, each with half of its points.
func (e encoder) encodePoints(b ecowatt.Block, since *wire.BootID) error {
	half, width := len(b.Points)/2, ecowatt.Columns(1, b.Window)
	for _, part := range []struct{ from, to int }{{0, half}, {half, len(b.Points)}} {
		c := b
		c.Points, c.Samples = b.Points[part.from:part.to], make([]ecowatt.Sample, len(b.Samples))
		for i, s := range b.Samples {
			c.Samples[i] = ecowatt.Sample{At: s.At, Values: s.Values[part.from*width : part.to*width]}
		}
		if err := e.encode(c, since); err != nil {
			return err
		}
	}
	return nil
}

// message makes one message of a block.
func (e encoder) message(b ecowatt.Block, since *wire.BootID) (buffer.Message, error) {
	t, err := e.pack(b, since)
	if err != nil {
		return buffer.Message{}, err
	}
	body, err := wire.EncodeTelemetry(t)
	if err != nil {
		return buffer.Message{}, fmt.Errorf("encoding a telemetry block: %w", err)
	}
	return newMessage(wire.KindTelemetry, body, e.random)
}

// pack packs a block with the codec that the compression asks for. What no packed
// block can hold stays plain.
func (e encoder) pack(b ecowatt.Block, since *wire.BootID) (wire.TelemetryBlock, error) {
	plain, err := wire.PlainBlock(b, since)
	if err != nil || b.Columns() > block.MaxPoints || e.Compression == CompressNone {
		return plain, err
	}
	p, err := block.NewEncoder(b.Columns())
	if err != nil {
		return wire.TelemetryBlock{}, fmt.Errorf("packing a block: %w", err)
	}
	for _, s := range b.Samples {
		if err := p.Append(s.At-b.Samples[0].At, s.Values); err != nil {
			return wire.TelemetryBlock{}, fmt.Errorf("packing a block: %w", err)
		}
	}
	data := p.Finish()
	if len(data) >= len(plain.Data) && e.Compression != CompressFast {
		return plain, nil
	}
	return wire.PackedBlock(b, since, data)
}
