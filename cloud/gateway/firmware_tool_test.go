package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
)

// releasing is a cloud that has the release of the vectors: number 12, for gw-1 and
// gw-2, from 7 on.
type releasing struct {
	*cloud
	release rollout.Release
	content key.Content
}

func newReleasing(tb testing.TB) *releasing {
	tb.Helper()
	c := &releasing{cloud: newCloud(tb)}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "..", "firmware", "testdata", name))
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	roots, err := rollout.ReadRoots([][]byte{read("root.cbor")})
	if err != nil {
		tb.Fatal(err)
	}
	c.release, c.content, err = rollout.Receive(bytes.NewReader(read("release.ewfw")), roots, func(_ rollout.File, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	c.release.AddedAt, c.release.AddedBy = c.time(), "ann"
	var kept store.Content
	if kept.KEK, kept.Wrapped, err = c.ring.WrapContent(c.content, c.release.ID); err != nil {
		tb.Fatal(err)
	}
	if _, err := c.store.AddRelease(tb.Context(), c.release, kept); err != nil {
		tb.Fatal(err)
	}
	return c
}

// rollOut makes a rollout to all devices at once, unless changed, and begins it.
func (c *releasing) rollOut(change func(*rollout.Spec)) rollout.Rollout {
	c.t.Helper()
	spec := rollout.Spec{
		Release: c.release.ID, Stages: []rollout.Stage{{Percent: 100}}, Soak: time.Hour, Deadline: 24 * time.Hour, MaxFailed: 2, MinSample: 10,
		Downgrades: [][]byte{{0xd2, 1, 2, 3}},
	}
	if change != nil {
		change(&spec)
	}
	o := rollout.Order{ID: rollout.ID(random16(c.t)), Spec: spec, By: "ann", At: c.time()}
	r, err := c.store.CreateRollout(c.t.Context(), o, c.release, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.advance()
	return r
}

// advance is the duty: all that rollouts do by themselves now.
func (c *cloud) advance() (begun int) {
	c.t.Helper()
	for {
		done, err := c.store.AdvanceRollouts(c.t.Context(), c.time())
		if err != nil {
			c.t.Fatal(err)
		}
		begun += len(done.Begun)
		for _, device := range done.Begun {
			c.gateway.Wake(device)
		}
		if !done.More {
			return begun
		}
	}
}

func (c *cloud) instruct(id rollout.ID, e rollout.Event, finish bool) {
	c.t.Helper()
	err := c.store.OrderRollout(c.t.Context(), rollout.Instruction{ID: id, Event: e, Finish: finish, By: "ann", At: c.time()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.advance()
}

func (c *cloud) rollout(id rollout.ID) rollout.View {
	c.t.Helper()
	v, err := c.store.Rollout(c.t.Context(), id, c.time())
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// update is what the rollout knows of a device.
func (d *device) update(id rollout.ID) rollout.Update {
	d.t.Helper()
	list, err := d.store.Updates(d.t.Context(), id, rollout.Filter{})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, u := range list {
		if u.Device == ecowatt.DeviceID(d.name) {
			return u
		}
	}
	d.t.Fatalf("%s is not in the rollout", d.name)
	return rollout.Update{}
}

// gateway is a device that runs release 11 and fits the release.
func (c *releasing) gatewayOf(name string) *device {
	c.t.Helper()
	d := c.add(name)
	d.connect()
	d.introduce()
	return d
}

// running is what a device says of an image, in a request.
func running(release uint64, image rollout.Hash, state wire.FirmwareState) *wire.Firmware {
	return &wire.Firmware{Release: release, Image: image, State: state, Version: fmt.Sprintf("1.%d.0", release)}
}

// former is the image that devices run at first.
var former = rollout.Hash{0xf0}

func (d *device) introduce() wire.Answer {
	d.t.Helper()
	body, err := wire.EncodeInventory(wire.Inventory{AgentVersion: "1.11.0", Hardware: "gw-1"})
	if err != nil {
		d.t.Fatal(err)
	}
	return d.exchange(wire.Request{
		Firmware: running(11, former, wire.FirmwareConfirmed),
		Messages: []wire.Message{{ID: random16(d.t), Kind: wire.KindInventory, Body: body}},
	})
}

// fota is a message of a fota_status.
func (d *device) fota(s wire.FotaStatus) wire.Message {
	d.t.Helper()
	body, err := wire.EncodeFotaStatus(s)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindFotaStatus, Body: body}
}

// updateLog is what the audit log says of updates of a device.
func (c *cloud) updateLog(name string) (log []string) {
	for _, r := range c.audit(name) {
		if step, ok := strings.CutPrefix(r.Action, "update."); ok {
			line := step + " by " + r.Actor.Name
			if r.Attrs["code"] != "" {
				line += ", " + r.Attrs["code"]
			}
			log = append(log, line)
		}
	}
	return log
}

// queryStore counts what transactions are asked about rollouts.
type queryStore struct {
	gateway.Store
	queries atomic.Int64
}

func (s *queryStore) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	return s.Store.Commit(ctx, func(tx gateway.Tx) error { return unit(queryTx{tx, s}) })
}

type queryTx struct {
	gateway.Tx
	s *queryStore
}

func (tx queryTx) Update(device int64) (rollout.Update, bool, error) {
	tx.s.queries.Add(1)
	return tx.Tx.Update(device)
}

func (tx queryTx) OfferedRelease(id rollout.Hash) (rollout.Package, bool, error) {
	tx.s.queries.Add(1)
	return tx.Tx.OfferedRelease(id)
}

func (tx queryTx) MoveUpdate(device int64, u rollout.Update, by audit.Actor, at time.Time) error {
	tx.s.queries.Add(1)
	return tx.Tx.MoveUpdate(device, u, by, at)
}

func (tx queryTx) NoteUpdate(device int64, u rollout.Update) error {
	tx.s.queries.Add(1)
	return tx.Tx.NoteUpdate(device, u)
}

// brokenStore fails at one method.
type brokenStore struct {
	gateway.Store
	broken string
}

func (s *brokenStore) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	return s.Store.Commit(ctx, func(tx gateway.Tx) error { return unit(brokenTx{tx, s.broken}) })
}

type brokenTx struct {
	gateway.Tx
	broken string
}

var errBroken = errors.New("the disk is on fire")

func (tx brokenTx) fails(method string) error {
	if tx.broken == method {
		return errBroken
	}
	return nil
}

func (tx brokenTx) Update(device int64) (rollout.Update, bool, error) {
	u, found, err := tx.Tx.Update(device)
	return u, found, errors.Join(err, tx.fails("Update"))
}

func (tx brokenTx) OfferedRelease(id rollout.Hash) (rollout.Package, bool, error) {
	p, found, err := tx.Tx.OfferedRelease(id)
	return p, found, errors.Join(err, tx.fails("OfferedRelease"))
}

func (tx brokenTx) MoveUpdate(device int64, u rollout.Update, by audit.Actor, at time.Time) error {
	return errors.Join(tx.Tx.MoveUpdate(device, u, by, at), tx.fails("MoveUpdate"))
}

func (tx brokenTx) NoteUpdate(device int64, u rollout.Update) error {
	return errors.Join(tx.Tx.NoteUpdate(device, u), tx.fails("NoteUpdate"))
}
