package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
)

func device(tb testing.TB, s *Store, id ecowatt.DeviceID) registry.Device {
	tb.Helper()
	d, err := s.Device(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestCreateDevice(t *testing.T) {
	s := open(t)
	n := newDevice(t, "roof")
	if err := s.CreateDevice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	want := registry.Device{ID: "roof", Group: "north", Notes: "on the barn", TimeZone: "UTC", CreatedAt: noon, Epoch: 1, KeySince: noon}
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	log := []audit.Record{{
		N: 1, At: noon, Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Device: "roof",
		Action: "device.added", Text: "device added", Attrs: map[string]string{"group": "north"},
	}}
	if diff := cmp.Diff(log, records(t, s, audit.Filter{})); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	if number(t, s, `SELECT count(*) FROM device_key WHERE epoch = 1 AND state = 'active' AND device = 1 AND length(wrapped) = 72`) != 1 {
		t.Error("the key is not there")
	}
	if _, err := s.Device(t.Context(), "barn"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a device that is not there: %v, want ErrNotFound", err)
	}
}

// TestCreateDeviceRefuses: what fails leaves neither device nor key nor record.
func TestCreateDeviceRefuses(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	for name, edit := range map[string]func(*registry.NewDevice){
		"a name that is taken": func(n *registry.NewDevice) { n.ID = "roof" },
		"no key":               func(n *registry.NewDevice) { n.Key.Wrapped = nil },
		"half a key":           func(n *registry.NewDevice) { n.Key.Wrapped = n.Key.Wrapped[:71] },
		"no kek":               func(n *registry.NewDevice) { n.Key.KEK = "" },
		"epoch 0":              func(n *registry.NewDevice) { n.Key.Epoch = 0 },
		"no name":              func(n *registry.NewDevice) { n.ID = "" },
	} {
		n := newDevice(t, "barn")
		edit(&n)
		err := s.CreateDevice(t.Context(), n)
		if taken := n.ID == "roof"; err == nil || errors.Is(err, registry.ErrExists) != taken {
			t.Errorf("%s: %v", name, err)
		}
	}
	for table, want := range map[string]int64{"device": 1, "device_key": 1, "audit": 1} {
		if got := number(t, s, `SELECT count(*) FROM `+table); got != want {
			t.Errorf("%d rows of %s, want %d", got, table, want)
		}
	}
}

// TestKeyIDIsTaken: only a name that is taken means that the device exists.
func TestKeyIDIsTaken(t *testing.T) {
	s := open(t)
	n := newDevice(t, "roof")
	if err := s.CreateDevice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.ID = "barn"
	if err := s.CreateDevice(t.Context(), n); err == nil || errors.Is(err, registry.ErrExists) {
		t.Errorf("a key id for two devices: %v", err)
	}
}

func TestDevices(t *testing.T) {
	s := open(t)
	for i := range 5 {
		n := newDevice(t, fmt.Sprintf("d%d", 4-i))
		n.Group = []string{"north", "south", ""}[i%3]
		if err := s.CreateDevice(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		f    registry.Filter
		want []ecowatt.DeviceID
	}{
		"all":                 {registry.Filter{}, []ecowatt.DeviceID{"d0", "d1", "d2", "d3", "d4"}},
		"after":               {registry.Filter{After: "d1"}, []ecowatt.DeviceID{"d2", "d3", "d4"}},
		"after one not there": {registry.Filter{After: "d11"}, []ecowatt.DeviceID{"d2", "d3", "d4"}},
		"limit":               {registry.Filter{Limit: 2}, []ecowatt.DeviceID{"d0", "d1"}},
		"group":               {registry.Filter{Group: "north"}, []ecowatt.DeviceID{"d1", "d4"}},
		"group, after":        {registry.Filter{Group: "north", After: "d1"}, []ecowatt.DeviceID{"d4"}},
		"group, limit":        {registry.Filter{Group: "north", Limit: 1}, []ecowatt.DeviceID{"d1"}},
		"no such group":       {registry.Filter{Group: "east"}, nil},
	} {
		list, err := s.Devices(t.Context(), c.f)
		if err != nil {
			t.Fatal(err)
		}
		var got []ecowatt.DeviceID
		for _, d := range list {
			got = append(got, d.ID)
			if diff := cmp.Diff(device(t, s, d.ID), d); diff != "" {
				t.Errorf("%s differs in the list (-alone +listed):\n%s", d.ID, diff)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestUpdateDevice(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	other := add(t, s, "barn")
	addSession(t, s, id, 1)
	addSession(t, s, other, 1)
	by := audit.Actor{Kind: audit.Operator, Name: "bob"}
	later := noon.Add(time.Hour)
	change := func(c registry.Change) {
		t.Helper()
		if err := s.UpdateDevice(t.Context(), "roof", c, by, later); err != nil {
			t.Fatal(err)
		}
	}
	want := device(t, s, "roof")
	change(registry.Change{Notes: new("moved")})
	want.Notes = "moved"
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	change(registry.Change{Group: new("")})
	want.Group = ""
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("group (-want +got):\n%s", diff)
	}
	if n := number(t, s, `SELECT count(*) FROM session`); n != 2 {
		t.Errorf("%d sessions before disabling, want 2", n)
	}
	change(registry.Change{Disabled: new(true)})
	want.Disabled = true
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("disabled (-want +got):\n%s", diff)
	}
	if n := number(t, s, `SELECT device FROM session`); n != other {
		t.Error("disabling a device must end its sessions and no others")
	}
	change(registry.Change{Group: new("east"), Notes: new(""), Disabled: new(false)})
	want.Group, want.Notes, want.Disabled = "east", "", false
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}

	var got []map[string]string
	for _, r := range records(t, s, audit.Filter{Device: "roof", After: 1}) {
		if r.Actor != by || r.Action != "device.changed" || !r.At.Equal(later) {
			t.Errorf("audit record %+v", r)
		}
		got = append(got, r.Attrs)
	}
	attrs := []map[string]string{{"notes": "moved"}, {"group": ""}, {"disabled": "true"}, {"group": "east", "notes": "", "disabled": "false"}}
	if diff := cmp.Diff(attrs, got); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
}

// addSession gives a device a pending session of the handshake of that number.
func addSession(tb testing.TB, s *Store, device, number int64) {
	tb.Helper()
	do(tb, s, func(tx *Tx) error {
		sid := make([]byte, 16)
		sid[0], sid[1] = byte(device), byte(number)
		_, err := tx.w.exec(`INSERT INTO session (sid, device, epoch, hs_no, state, kek, wrapped, hs1_hash, hs2, created_at, lifetime, expires_at)
			VALUES ($1, $2, 1, $3, 'pending', 'aaaa', zeroblob(136), zeroblob(32), x'00', 0, 1, 1)`, sid, device, number)
		return err
	})
}

func TestUpdateDeviceRefuses(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	before := device(t, s, "roof")
	var invalid *registry.InvalidError
	err := s.UpdateDevice(t.Context(), "roof", registry.Change{Notes: new("ok"), Group: new("No Group")}, audit.Actor{Kind: audit.Operator}, noon)
	if !errors.As(err, &invalid) || invalid.Field != "group" {
		t.Errorf("a bad group: %v", err)
	}
	err = s.UpdateDevice(t.Context(), "barn", registry.Change{Notes: new("ok")}, audit.Actor{Kind: audit.Operator}, noon)
	if !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a device that is not there: %v", err)
	}
	err = s.UpdateDevice(t.Context(), "roof", registry.Change{Notes: new("ok")}, audit.Actor{Kind: "nobody"}, noon)
	if err == nil {
		t.Error("a change without an actor")
	}
	if diff := cmp.Diff(before, device(t, s, "roof")); diff != "" {
		t.Errorf("a change that was refused (-want +got):\n%s", diff)
	}
	if n := len(records(t, s, audit.Filter{})); n != 1 {
		t.Errorf("%d audit records, want 1", n)
	}
}

func TestReport(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	add(t, s, "barn")
	inventory := registry.Inventory{
		AgentVersion: "0.1.0", Hardware: "linux/arm", ControlAllowed: true,
		Inverters: []registry.Inverter{
			{Name: "east", Profile: "ecowatt-sim", ProfileVersion: "1", Points: []ecowatt.Point{
				{Name: "vac1", Unit: "V", Exponent: -1},
				{Name: "export_power_percent", Unit: "%", Writable: true, Min: 0, Max: 100},
			}},
			{Name: "west", Profile: "ecowatt-sim", Serial: "S1", Model: "M", Points: []ecowatt.Point{}},
		},
	}
	firmware := registry.Firmware{Release: 1<<64 - 1, State: "trial", Version: "1.2.3"}
	report := func(r registry.Report, want registry.News) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			got, err := tx.Report(id, r)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("news (-want +got):\n%s", diff)
			}
			return err
		})
	}
	want := device(t, s, "roof")
	report(registry.Report{At: noon}, registry.News{})
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("after an empty report (-want +got):\n%s", diff)
	}
	report(registry.Report{At: noon, Firmware: &firmware, Inventory: &inventory}, registry.News{Firmware: true, Inventory: true})
	want.Firmware, want.Inventory = firmware, inventory
	want.Inventory.ReportedAt = noon
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("after a report (-want +got):\n%s", diff)
	}

	again := noon.Add(time.Minute)
	report(registry.Report{At: again, Firmware: &firmware, Inventory: &inventory}, registry.News{})
	want.Inventory.ReportedAt = again
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("after the same report (-want +got):\n%s", diff)
	}

	inventory.ControlAllowed, firmware.State = false, "confirmed"
	report(registry.Report{At: again, Firmware: &firmware}, registry.News{Firmware: true})
	report(registry.Report{At: again, Inventory: &inventory}, registry.News{Inventory: true})
	want.Firmware, want.Inventory.ControlAllowed = firmware, false
	if diff := cmp.Diff(want, device(t, s, "roof")); diff != "" {
		t.Errorf("after a change (-want +got):\n%s", diff)
	}
	if d := device(t, s, "barn"); d.Firmware != (registry.Firmware{}) || !d.Inventory.ReportedAt.IsZero() {
		t.Errorf("another device changed: %+v", d)
	}
}

// TestLastSeen is the later of what a living session and the ended ones say.
func TestLastSeen(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	seen := func(session, ended any) time.Time {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			_, err := tx.w.exec(`UPDATE device SET last_seen = $1 WHERE id = $2`, ended, id)
			_, err2 := tx.w.exec(`UPDATE session SET seen_at = $1, last_seq = CASE WHEN $1 IS NULL THEN 0 ELSE 1 END`, session)
			return errors.Join(err, err2)
		})
		return device(t, s, "roof").LastSeen
	}
	early, late := noon.UnixMilli(), noon.Add(time.Hour).UnixMilli()
	if got := seen(nil, nil); !got.IsZero() {
		t.Errorf("never seen: %v", got)
	}
	if got := seen(nil, early); !got.Equal(noon) {
		t.Errorf("in an ended session: %v", got)
	}
	addSession(t, s, id, 1)
	if got := seen(nil, early); !got.Equal(noon) {
		t.Errorf("a session waits: %v", got)
	}
	if got := seen(late, early); got.UnixMilli() != late {
		t.Errorf("later in a living session: %v", got)
	}
	if got := seen(early, late); got.UnixMilli() != late {
		t.Errorf("later in an ended session: %v", got)
	}
}
