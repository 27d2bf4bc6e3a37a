// Package sunspec finds what an inverter tells of itself by the SunSpec
// Information Model, and makes a profile of it. Where its models are differs from
// one inverter to the next, so they are looked for, never assumed. It does no I/O
// of its own: the registers come through a Reader.
package sunspec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ecowatt/inverter"
)

// Reader reads count holding registers from the wire address on. A refusal by
// the inverter itself is an error that has the method ExceptionCode() byte.
type Reader func(ctx context.Context, address, count uint16) ([]uint16, error)

// ErrNotFound says that there is no SunSpec map.
var ErrNotFound = errors.New("no SunSpec map")

// The map begins with "SunS" (SunSpec Device Information Model Specification,
// section 6.2).
const (
	marker0 = 0x5375
	marker1 = 0x6e53
	lastID  = 0xffff // of the model that ends the chain
)

// Limits of what is read.
const (
	header    = 2   // words: the model's ID and its length
	maxModels = 64  // in a chain
	maxRead   = 100 // words at once; some inverters refuse 125
)

// bases are the addresses where a map may begin, in the order in which they are
// tried.
func bases() []uint16 { return []uint16{40000, 50000, 0} }

// Device is what was found.
type Device struct {
	Base   uint16 // of "SunS"
	Models []Model
}

// Model is one model of the chain.
type Model struct {
	ID      uint16
	Address uint16   // of the ID
	Words   []uint16 // from the ID on; nil for a model that is not used here
}

// Discover looks for the map and walks its chain of models. The error wraps
// ErrNotFound when there is none, and is that of read when nothing answers, or
// when the inverter has no time: what is found is whole, or an error.
func Discover(ctx context.Context, read Reader) (Device, error) {
	for _, base := range bases() {
		words, err := read(ctx, base, header)
		switch {
		case notThere(err):
			continue
		case err != nil:
			return Device{}, fmt.Errorf("looking for SunSpec at %d: %w", base, err)
		case len(words) != header || words[0] != marker0 || words[1] != marker1:
			continue
		}
		models, err := walk(ctx, read, int(base)+header)
		if err != nil {
			return Device{}, err
		}
		return Device{Base: base, Models: models}, nil
	}
	return Device{}, fmt.Errorf("%w at %s", ErrNotFound, strings.Trim(fmt.Sprint(bases()), "[]"))
}

// notThere reports whether the inverter itself said that it does not have what
// was asked for: exceptions 01 to 03, and 04, which some say instead (Modbus
// Application Protocol V1.1b3, section 7). Others are of the moment, or of a
// gateway.
func notThere(err error) bool {
	var refusal interface{ ExceptionCode() byte }
	return errors.As(err, &refusal) && refusal.ExceptionCode() >= 1 && refusal.ExceptionCode() <= 4
}

// walk follows the chain of models from the address at on. A chain may end
// without its last model: where an inverter refuses to go on, it is over.
func walk(ctx context.Context, read Reader, at int) ([]Model, error) {
	var models []Model
	for range maxModels {
		if at+header > 1<<16 {
			return models, nil
		}
		words, err := read(ctx, uint16(at), header)
		if notThere(err) && len(models) > 0 {
			return models, nil
		}
		if err == nil && len(words) != header {
			err = fmt.Errorf("%d registers came instead of %d", len(words), header)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the SunSpec model at %d: %w", at, err)
		}
		m := Model{ID: words[0], Address: uint16(at)}
		length := int(words[1])
		if m.ID == lastID {
			return models, nil
		}
		if at+header+length > 1<<16 || length == 0 {
			return nil, fmt.Errorf("the SunSpec model %d at %d has an impossible length of %d", m.ID, at, length)
		}
		if used(m.ID) {
			if m.Words, err = readModel(ctx, read, at, header+length); err != nil {
				return nil, fmt.Errorf("reading the SunSpec model %d at %d: %w", m.ID, at, err)
			}
		}
		models = append(models, m)
		at += header + length
	}
	return nil, fmt.Errorf("the SunSpec map has more than %d models", maxModels)
}

// readModel reads n words, those of a long model in parts.
func readModel(ctx context.Context, read Reader, at, n int) ([]uint16, error) {
	n = min(n, maxModel)
	words := make([]uint16, 0, n)
	for len(words) < n {
		count := min(maxRead, n-len(words))
		part, err := read(ctx, uint16(at+len(words)), uint16(count))
		if err != nil {
			return nil, err
		}
		if len(part) != count {
			return nil, fmt.Errorf("%d registers came instead of %d", len(part), count)
		}
		words = append(words, part...)
	}
	return words, nil
}

// maxModel is how much of a model is read, in words; the longest here has 155.
// It leaves room for the twenty strings of a model 160.
const maxModel = 10 + 20*20

// used reports whether points of a model are read here.
func used(id uint16) bool {
	return id == common || slices.ContainsFunc(tables(), func(t table) bool { return slices.Contains(t.ids, id) })
}

// word is one word of a model, by its offset from the ID; false if it is not
// that long.
func (m Model) word(offset int) (uint16, bool) {
	if offset >= len(m.Words) {
		return 0, false
	}
	return m.Words[offset], true
}

// text is a string of a model that a profile lists.
func (m Model) text(name string, offset, words int) inverter.Text {
	return inverter.Text{Name: name, Table: inverter.Holding, Address: m.Address + uint16(offset), Words: words}
}
