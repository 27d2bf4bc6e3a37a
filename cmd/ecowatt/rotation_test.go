package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
)

func TestDeviceRotateKey(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.run(0, "device", "rotate-key", "roof-1", "--over", "90d").out(`^roof-1: rotation to epoch 2, offered from 20.* on\.$`).talk()
	o.run(0, "device", "rotate-key", "roof-1", "--burn").answers("roof-1: rotation to epoch 2, offered with the next answer; its use destroys all keys before it.\n").talk()
	o.run(0, "device", "show", "roof-1").out(`^rotation   to epoch 2, offered with the next answer; its use destroys all keys before it$`)
	o.run(0, "device", "rotate-key", "roof-1", "--cancel").answers("The rotation is cancelled.\n").talk()
	o.run(0, "device", "show", "roof-1").never("rotation")
	o.run(4, "device", "rotate-key", "roof-1", "--cancel").out().talk(`^ecowatt: no rotation of device "roof-1" is pending$`)
	o.run(0, "device", "rotate-key", "roof-1", "--json").out(`"epoch": 2`, `"offered_at": null`, `"burn": false`)
	o.run(0, "device", "rotate-key", "--all", "--over", "7d").answers("Rotations ordered: 0. Pending already: 1.\n").talk()

	d := o.talker("roof-1.enrol.json")
	d.exchange(t)
	o.run(0, "device", "show", "roof-1").out(`^rotation   to epoch 2, offered since 20.*, not in use yet$`)
	o.run(1, "device", "rotate-key", "roof-1", "--cancel").out().talk(`^ecowatt: device "roof-1": it was offered its next key already, and may be using it$`)
	d.exchange(t)
	o.run(0, "device", "show", "roof-1").out(`^key epoch  2, since 20`).never("rotation")
	o.run(0, "log", "--device", "roof-1").out("rotation.ordered", "rotation.changed", "rotation.cancelled")
}

func TestDeviceRotateKeys(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1", "--group", "north")
	o.run(0, "device", "add", "roof-2")
	o.run(0, "device", "rotate-key", "--group", "north").answers("Rotations ordered: 1. Pending already: 0.\n").talk()
	o.run(0, "device", "rotate-key", "--all", "--burn", "--json").answers("{\n  \"ordered\": 1,\n  \"pending\": 1,\n  \"refused\": 0\n}\n").talk()
	for _, refused := range []struct {
		code int
		says string
		args []string
	}{
		{2, `^ecowatt: ID is missing, or --group or --all$`, nil},
		{2, `^ecowatt: unexpected argument "roof-2"$`, []string{"roof-1", "roof-2"}},
		{2, `^ecowatt: give either ID, --group or --all$`, []string{"roof-1", "--all"}},
		{2, `group`, []string{"--all", "--group", "north"}},
		{2, `cancel`, []string{"--all", "--cancel"}},
		{2, `cancel`, []string{"roof-1", "--cancel", "--burn"}},
		{2, `^ecowatt: ID is missing, or --group or --all$`, []string{"--group", ""}},
		{2, `^ecowatt: group "No Good": `, []string{"--group", "No Good"}},
		{2, `^ecowatt: --over: "soon" is no time span; write 30s, 5m, 2h or 7d$`, []string{"roof-1", "--over", "soon"}},
		{2, `^ecowatt: over_s: not within 0 and 7776000$`, []string{"roof-1", "--over", "91d"}},
		{2, `^ecowatt: device id "No Good": `, []string{"No Good"}},
		{4, `^ecowatt: there is no device "nobody"$`, []string{"nobody"}},
	} {
		o.run(refused.code, append([]string{"device", "rotate-key"}, refused.args...)...).out().talk(refused.says)
	}
}

func TestDeviceRecover(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.run(1, "device", "recover", "roof-1").out().talk(`^ecowatt: device "roof-1": its first key is the one in use, so it needs no recovery$`)
	d := o.talker("roof-1.enrol.json")
	o.run(0, "device", "rotate-key", "roof-1")
	d.exchange(t)
	d.exchange(t)
	o.run(0, "device", "recover", "roof-1", "--for", "2d").out(`^roof-1 may come with its first key until 20.*, and is given that of epoch 3\.$`).talk()
	o.run(0, "device", "show", "roof-1").out(`^recovery   let in with its first key until 20`, `^rotation   to epoch 3`)
	o.run(0, "device", "recover", "roof-1", "--close").answers("No recovery window is open.\n").talk()
	o.run(0, "device", "recover", "roof-1", "--close", "--json").out(`"id": "roof-1"`).never("recovery_until")
	o.run(0, "device", "recover", "roof-1", "--json").out(`"recovery_until": "20`, `"epoch": 3`)
	o.run(2, "device", "recover", "roof-1", "--for", "30s").out().talk(`^ecowatt: for_s: not within 60 and 604800$`)
	o.run(2, "device", "recover", "roof-1", "--for", "1h", "--close").out().talk("close")
	o.run(2, "device", "recover").out().talk(`^ecowatt: ID is missing$`)
	o.run(4, "device", "recover", "nobody", "--close").out().talk(`^ecowatt: there is no device "nobody"$`)
}

// talker is a device as the store knows it when it talks to the gateway.
type talker struct {
	o    *operator
	key  key.ID
	made byte
}

// talker is the device that an enrolment file is for.
func (o *operator) talker(file string) *talker {
	o.t.Helper()
	var e struct {
		PSKID key.ID `json:"psk_id"`
	}
	if err := json.Unmarshal([]byte(o.file(file)), &e); err != nil {
		o.t.Fatal(err)
	}
	return &talker{o: o, key: e.PSKID}
}

// exchange is what the gateway does with a device that shakes hands and exchanges
// once. Afterwards it has the key that it was offered, if any.
func (d *talker) exchange(t *testing.T) {
	t.Helper()
	d.made++
	d.o.withStore(func(ctx context.Context, s *store.Store) error {
		offer := session.Offer{
			KeyID: d.key, HS1: [32]byte{d.made}, HS2: []byte{d.made}, SID: wire.SessionID{d.made},
			KEK: "kek", Wrapped: make([]byte, 136), At: time.Now(), Lifetime: time.Hour,
		}
		if _, err := s.Establish(ctx, offer); err != nil {
			return err
		}
		x, err := s.Session(ctx, offer.SID)
		if err != nil {
			return err
		}
		return s.Commit(ctx, func(tx *store.Tx) error {
			raised, err := tx.Raise(session.Claim{Session: x, Seq: 1, At: offer.At, Offer: true})
			if raised.Offers {
				d.key = x.Next.ID
			}
			return err
		})
	})
}
