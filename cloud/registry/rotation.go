package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"ecowatt"
	"ecowatt/key"
)

// Bounds of what people may ask for.
const (
	MaxOver     = 90 * 24 * time.Hour // over which the rotations of a fleet are spread
	MinRecovery = time.Minute         // that a recovery window is open
	MaxRecovery = 7 * 24 * time.Hour
)

// rotationPage is how many devices of a fleet are ordered in one transaction:
// few enough that no device waits for it.
const rotationPage = 100

// ErrNoRotation says that there is no pending rotation to cancel.
var ErrNoRotation = errors.New("no rotation is pending")

// ConflictError says why something cannot be done as things are now.
type ConflictError struct{ Problem string } // for people, of the device in the third person

func (e *ConflictError) Error() string { return e.Problem }

// Rotation is a pending rotation: the next key of a device, which it is offered
// until it uses it.
type Rotation struct {
	Epoch     key.Epoch
	OfferFrom time.Time // not before
	OfferedAt time.Time // when it was first offered; zero when not yet
	Burn      bool      // its use destroys all keys before it, the first one included
}

// Keys is what an order needs to know of the keys of a device.
type Keys struct {
	Device  ecowatt.DeviceID
	Newest  key.Epoch // of all that it ever had
	Pending bool      // the newest is
}

// Order asks for a pending key. Where there is one already, that stays, burns if
// Burn, and is offered from From on where it would have been later.
type Order struct {
	Device ecowatt.DeviceID
	Key    *NewKey // of the epoch after the newest; nil where one was pending
	From   time.Time
	Burn   bool
	By     string // the operator's name, for the audit log
	At     time.Time
}

// Ordered is what became of an Order.
type Ordered struct {
	Rotation
	New   bool // it was not pending before
	Stale bool // the keys are not those that the order was made for: nothing was done
}

// RotationStore is the part of the store that Rotations need. What it changes, it
// writes an audit record of in the same transaction. A device that is not there
// is ErrNotFound.
type RotationStore interface {
	// DeviceKeys returns the keys of one device, FleetKeys those of the devices
	// that the filter selects, by id.
	DeviceKeys(ctx context.Context, id ecowatt.DeviceID) (Keys, error)
	FleetKeys(ctx context.Context, f Filter) ([]Keys, error)
	// OrderRotations carries out the orders in one transaction.
	OrderRotations(ctx context.Context, orders []Order) ([]Ordered, error)
	// OpenRecovery carries out the order and lets the device shake hands with its
	// first key until the window ends, or returns a *ConflictError.
	OpenRecovery(ctx context.Context, o Order, until time.Time) (Ordered, error)
}

// Rotations orders new keys for devices. It holds no state of its own.
type Rotations struct {
	store  RotationStore
	keys   Wrapper
	random io.Reader
}

// NewRotations returns Rotations. For keys and random see New.
func NewRotations(store RotationStore, keys Wrapper, random io.Reader) *Rotations {
	return &Rotations{store: store, keys: keys, random: random}
}

// RotationRequest asks for keys to be rotated.
type RotationRequest struct {
	Over time.Duration // each is offered from a random moment of this time on; 0 for at once
	Burn bool
	By   string // the operator's name, for the audit log
}

func (q RotationRequest) check() error {
	if q.Over < 0 || q.Over > MaxOver {
		return &InvalidError{Field: "over_s", Problem: fmt.Sprintf("not within 0 and %d", int(MaxOver/time.Second))}
	}
	return nil
}

// Order orders a rotation, or returns the one that is pending: see Order. Bad
// input is an *InvalidError; a device whose epochs are used up a *ConflictError.
func (r *Rotations) Order(ctx context.Context, id ecowatt.DeviceID, q RotationRequest, now time.Time) (Rotation, error) {
	if err := q.check(); err != nil {
		return Rotation{}, err
	}
	done, err := r.one(ctx, id, q, now, r.carryOut)
	return done.Rotation, err
}

func (r *Rotations) carryOut(ctx context.Context, o Order) (Ordered, error) {
	done, err := r.store.OrderRotations(ctx, []Order{o})
	if err != nil {
		return Ordered{}, err
	}
	return done[0], nil
}

// OpenRecovery lets a device that has lost all keys but its first come back
// within the time given: it is let in with that key, but only to be offered the
// next one. It returns the end of the window and the pending rotation.
func (r *Rotations) OpenRecovery(ctx context.Context, id ecowatt.DeviceID, open time.Duration, by string, now time.Time) (time.Time, Rotation, error) {
	if open < MinRecovery || open > MaxRecovery {
		problem := fmt.Sprintf("not within %d and %d", int(MinRecovery/time.Second), int(MaxRecovery/time.Second))
		return time.Time{}, Rotation{}, &InvalidError{Field: "for_s", Problem: problem}
	}
	until := now.Add(open).UTC().Truncate(time.Millisecond)
	done, err := r.one(ctx, id, RotationRequest{By: by}, now, func(ctx context.Context, o Order) (Ordered, error) {
		return r.store.OpenRecovery(ctx, o, until)
	})
	return until, done.Rotation, err
}

// errChanging says that others are faster each time.
var errChanging = errors.New("the keys of the device keep changing")

// one makes an order for what the keys of a device are, and makes another one
// when they have changed before it was carried out.
func (r *Rotations) one(
	ctx context.Context, id ecowatt.DeviceID, q RotationRequest, now time.Time, carryOut func(context.Context, Order) (Ordered, error),
) (Ordered, error) {
	for range 10 {
		keys, err := r.store.DeviceKeys(ctx, id)
		if err != nil {
			return Ordered{}, err
		}
		o, err := r.order(keys, q, now)
		if err != nil {
			return Ordered{}, err
		}
		if done, err := carryOut(ctx, o); err != nil || !done.Stale {
			return done, err
		}
	}
	return Ordered{}, fmt.Errorf("ordering a rotation of %s: %w", id, errChanging)
}

// order makes the order for a device, with a fresh key where none is pending.
func (r *Rotations) order(keys Keys, q RotationRequest, now time.Time) (Order, error) {
	wait, err := r.drawDuration(q.Over)
	if err != nil {
		return Order{}, err
	}
	now = now.UTC().Truncate(time.Millisecond)
	o := Order{Device: keys.Device, From: now.Add(wait), Burn: q.Burn, By: q.By, At: now}
	if keys.Pending {
		return o, nil
	}
	if keys.Newest == math.MaxUint32 {
		return Order{}, &ConflictError{Problem: "its epochs are used up: add it as a new device"}
	}
	o.Key, err = r.newKey(keys.Device, keys.Newest+1)
	return o, err
}

func (r *Rotations) newKey(device ecowatt.DeviceID, epoch key.Epoch) (*NewKey, error) {
	secret, err := key.NewDevice(r.random)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	defer secret.Destroy()
	id, err := key.NewID(r.random)
	if err != nil {
		return nil, fmt.Errorf("making a key id: %w", err)
	}
	kek, wrapped, err := r.keys.WrapDevice(secret, string(device), id, epoch)
	if err != nil {
		return nil, fmt.Errorf("wrapping the device key: %w", err)
	}
	return &NewKey{ID: id, Epoch: epoch, KEK: kek, Wrapped: wrapped}, nil
}

// drawDuration draws evenly from 0 to below most, in whole milliseconds.
func (r *Rotations) drawDuration(most time.Duration) (time.Duration, error) {
	steps := uint64(most.Milliseconds())
	if steps == 0 {
		return 0, nil
	}
	var b [8]byte
	if _, err := io.ReadFull(r.random, b[:]); err != nil {
		return 0, fmt.Errorf("drawing a moment: %w", err)
	}
	return time.Duration(binary.BigEndian.Uint64(b[:])%steps) * time.Millisecond, nil
}

// FleetCounts tells what an order for a fleet did.
type FleetCounts struct {
	Ordered int // devices whose rotation was ordered
	Pending int // devices for which one was pending already
	Refused int // devices whose epochs are used up
}

// OrderFleet orders a rotation for each device of a group, or for all of them
// when group is empty, a page in each transaction. When it fails, the pages
// before stay ordered; to ask again orders the rest.
func (r *Rotations) OrderFleet(ctx context.Context, group string, q RotationRequest, now time.Time) (FleetCounts, error) {
	var counts FleetCounts
	if err := q.check(); err != nil {
		return counts, err
	}
	if err := checkGroup(group); err != nil {
		return counts, err
	}
	f := Filter{Group: group, Limit: rotationPage}
	for {
		page, err := r.store.FleetKeys(ctx, f)
		if err != nil || len(page) == 0 {
			return counts, err
		}
		if err := r.orderPage(ctx, page, q, now, &counts); err != nil {
			return counts, err
		}
		f.After = page[len(page)-1].Device
	}
}

func (r *Rotations) orderPage(ctx context.Context, page []Keys, q RotationRequest, now time.Time, counts *FleetCounts) error {
	orders := make([]Order, 0, len(page))
	for _, keys := range page {
		o, err := r.order(keys, q, now)
		if conflict := (*ConflictError)(nil); errors.As(err, &conflict) {
			counts.Refused++
			continue
		}
		if err != nil {
			return err
		}
		orders = append(orders, o)
	}
	done, err := r.store.OrderRotations(ctx, orders)
	if err != nil {
		return err
	}
	for i, d := range done {
		if d.Stale { // its keys have changed since they were read: once more, it alone
			if d, err = r.one(ctx, orders[i].Device, q, now, r.carryOut); err != nil {
				return err
			}
		}
		if d.New {
			counts.Ordered++
		} else {
			counts.Pending++
		}
	}
	return nil
}
