package buffer

import (
	"encoding/binary"
	"errors"
	"slices"

	"ecowatt"
	"ecowatt/block"
)

// Clocks of a run, as its record names them.
const (
	sinceBoot = 0
	sinceUTC  = 1
)

// writeRun writes the record of a run:
//
//	1 ‖ boot id (16) ‖ clock ‖ window ‖ inverter ‖ number of points ‖ point ‖ point …
//	  ‖ number of samples ‖ time of the first ‖ length ‖ block ‖ length ‖ block …
//
// The time is a zigzag varint. Each block (package block) holds up to 64 of the
// columns, in order, and the times since the first.
func (b *Buffer) writeRun(r Run, write func(record []byte) error) error {
	clock := byte(sinceBoot)
	if r.UTC {
		clock = sinceUTC
	}
	s := append(append(b.scratch[:0], recordRun), r.Boot[:]...)
	s = binary.AppendUvarint(append(s, clock), uint64(r.Window))
	s = appendNames(appendName(s, r.Inverter), r.Points)
	s = binary.AppendUvarint(s, uint64(len(r.Samples)))
	s = binary.AppendVarint(s, r.Samples[0].At)
	for at := 0; at < r.columns(); at += block.MaxPoints {
		data, err := encodeColumns(r, at, min(at+block.MaxPoints, r.columns()))
		if err != nil {
			return err
		}
		s = append(binary.AppendUvarint(s, uint64(len(data))), data...)
	}
	b.scratch = s
	return write(s)
}

// encodeColumns packs some columns of a run.
func encodeColumns(r Run, from, to int) ([]byte, error) {
	e, err := block.NewEncoder(to - from)
	if err != nil {
		return nil, err
	}
	for _, s := range r.Samples {
		if err := e.Append(s.At-r.Samples[0].At, s.Values[from:to]); err != nil {
			return nil, err
		}
	}
	return e.Finish(), nil
}

// packedRun is the record of a run, its samples still packed.
type packedRun struct {
	Run
	rows   int
	first  int64
	blocks [][]byte // of the record's bytes
}

// parseRun reads a record of writeRun but for the blocks in it. The error is
// errMalformed.
func parseRun(record []byte) (packedRun, error) {
	r := &reader{b: record}
	kind := r.byte()
	p := packedRun{Run: Run{Boot: r.id()}}
	clock, window := r.byte(), r.uvarint()
	p.UTC, p.Window = clock == sinceUTC, int64(window)
	p.Inverter, p.Points = r.name(), r.names()
	rows := r.uvarint()
	p.first = r.varint()
	windows := window >= ecowatt.MinWindow && window <= ecowatt.MaxWindow
	if r.bad || kind != recordRun || clock > sinceUTC || window != 0 && !windows || rows < 1 || rows > block.MaxSamples ||
		int(rows)*p.columns() > maxHeld {
		return packedRun{}, errMalformed
	}
	p.rows = int(rows)
	for range (p.columns() + block.MaxPoints - 1) / block.MaxPoints {
		p.blocks = append(p.blocks, r.take(int(min(r.uvarint(), uint64(len(record))))))
	}
	if r.bad || len(r.b) > 0 {
		return packedRun{}, errMalformed
	}
	return p, nil
}

// unpack returns the run with its samples. The error is errMalformed.
func (p packedRun) unpack() (Run, error) {
	run, columns := p.Run, p.columns()
	for i, data := range p.blocks {
		width := min(block.MaxPoints, columns-i*block.MaxPoints)
		part, err := block.Decode(data, block.Limits{Points: width, Samples: p.rows})
		if err != nil || len(part) != p.rows || len(part[0].Values) != width {
			return Run{}, errMalformed
		}
		if i == 0 {
			run.Samples = part
			continue
		}
		for n := range part {
			run.Samples[n].Values = append(run.Samples[n].Values, part[n].Values...)
		}
	}
	for n := range run.Samples {
		s := &run.Samples[n]
		s.At += p.first
		if p.Window != 0 && !sound(s.Values) {
			return Run{}, errMalformed
		}
	}
	return run, nil
}

// sound reports whether the columns of a window can be added up.
func sound(columns []ecowatt.Value) bool {
	for v := range slices.Chunk(columns, ecowatt.Aggregates) {
		n := v[ecowatt.Count]
		if !n.Valid || n.Raw < 0 || n.Raw > ecowatt.MaxWindow {
			return false
		}
	}
	return true
}

// eachRun calls visit with each run of a file of runs that can be read.
func (b *Buffer) eachRun(f *file, visit func(Run) error) error {
	first := true
	intact, err := b.scan(f.name(), func(record []byte) error {
		if first {
			first = false
			_, err := parseHeader(record)
			return err
		}
		p, err := parseRun(record)
		if err != nil {
			return err
		}
		r, err := p.unpack()
		if err != nil {
			return err
		}
		return visit(r)
	})
	if errors.Is(err, errMalformed) {
		err = nil
	}
	if err == nil && intact < f.size {
		b.noteDamage(f, f.size-intact)
	}
	return err
}
