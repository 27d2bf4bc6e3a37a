package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ecowatt/cloud/access"
	"ecowatt/cloud/api"
)

// keks are the ids on the ring, the oldest first, and which is primary.
func (o *operator) keks() (ids []string, primary string) {
	o.t.Helper()
	var list api.KeyringList
	if err := json.Unmarshal([]byte(o.run(0, "keyring", "list", "--json").talk().stdout), &list); err != nil {
		o.t.Fatal(err)
	}
	for _, k := range list.Keys {
		ids = append(ids, k.ID)
		if k.Primary {
			primary = k.ID
		}
	}
	return ids, primary
}

// The way that docs/operations.md goes, and what each step says.
func TestKeyring(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	_, first := o.keks()
	o.run(0, "keyring", "list").talk().out(`^KEY +STATE +AGE +DEVICE KEYS +SESSIONS +RELEASES$`, `^`+first+` +primary +\d+ s +1 +0 +0$`)
	added := o.run(0, "keyring", "add").talk().out(`^[0-9a-f]{16} is on the key ring\.$`, `^Back up keyring\.json, then: ecowatt keyring primary [0-9a-f]{16}$`)
	second := added.stdout[:16]
	o.run(0, "keyring", "primary", second).talk().out(`^`+second+` wraps from now on\.$`, `ecowatt keyring rewrap$`)
	o.run(1, "keyring", "remove", first).out().talk(`^ecowatt: ` + first + ` still wraps keys of devices \(1\), of sessions \(0\) and of releases \(0\): wrap them anew first$`)
	o.run(1, "keyring", "remove", second).out().talk(`^ecowatt: ` + second + ` is the primary key: make another one primary first$`)
	o.run(0, "keyring", "rewrap").talk().out(`^1 device key, 0 sessions and 0 releases are wrapped anew with ` + second + `\.$`)
	o.run(0, "keyring", "rewrap").talk().out(`^0 device keys, 0 sessions and 0 releases are wrapped anew with ` + second + `\.$`)
	o.run(0, "keyring", "remove", first).talk().out(`^` + first + ` is removed\.$`)
	if ids, primary := o.keks(); len(ids) != 1 || primary != second {
		t.Errorf("the ring is %v, primary %s", ids, primary)
	}
	o.run(4, "keyring", "remove", first).out().talk(`^ecowatt: there is no key-encryption key "` + first + `" on the key ring$`)
	o.run(4, "keyring", "primary", "a/../b").out().talk(`no key-encryption key`)
	o.run(2, "keyring", "remove").out().talk(`^ecowatt: KEY is missing$`)
	o.run(2, "keyring").out().talk(`^ecowatt: keyring what\? Choose from: list, add, primary, rewrap, remove$`)

	var key api.KeyringKey
	if err := json.Unmarshal([]byte(o.run(0, "keyring", "add", "--json").talk().stdout), &key); err != nil || len(key.ID) != 16 || key.Primary {
		t.Errorf("%+v, %v", key, err)
	}
	for _, args := range []string{"primary " + key.ID, "remove " + second} {
		var list api.KeyringList
		if args[0] == 'r' {
			var done api.KeyringRewrap
			if err := json.Unmarshal([]byte(o.run(0, "keyring", "rewrap", "--json").talk().stdout), &done); err != nil || done.DeviceKeys != 1 || done.Primary != key.ID {
				t.Errorf("%+v, %v", done, err)
			}
		}
		s := o.run(0, append(append([]string{"keyring"}, strings.Fields(args)...), "--json")...).talk()
		if err := json.Unmarshal([]byte(s.stdout), &list); err != nil || len(list.Keys) == 0 {
			t.Errorf("%s: %+v, %v", args, list, err)
		}
	}

	for _, role := range []access.Role{access.Viewer, access.Operator} {
		o.use(role)
		for _, args := range []string{"list", "add", "rewrap", "primary " + second, "remove " + second} {
			o.run(3, append([]string{"keyring"}, strings.Fields(args)...)...).out().
				talk(`^ecowatt: ` + role.String() + `-token \(` + role.String() + `\) may not see or change the key ring: that takes the role administrator$`)
		}
	}
}

// Nothing that these commands say is a key.
func TestKeyringShowsNoKey(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	says := o.run(0, "keyring", "add").stdout + o.run(0, "keyring", "list", "--json").stdout + o.run(0, "log", "--last", "0").stdout
	ring, err := os.ReadFile(filepath.Join(o.data, "keyring.json"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := regexp.MustCompile(`"key": "([^"]+)"`).FindAllSubmatch(ring, -1)
	if len(secrets) != 2 {
		t.Fatalf("%d keys in the file, want 2", len(secrets))
	}
	for _, secret := range secrets {
		if strings.Contains(says, string(secret[1])) {
			t.Error("a key is shown")
		}
	}
}

// A backup of the cloud that serves, and what becomes of it.
func TestBackup(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	_, kek := o.keks()
	o.run(0, "backup", "--data", o.data, "--out", "eco.backup").talk().
		out(`^eco\.backup holds 1 device, without sessions\.$`, `^Its device keys open with the key-encryption key `+kek+`: keep a copy of keyring\.json, apart from it\.$`)
	o.mode("eco.backup", 0o600)
	before := o.file("eco.backup")
	o.run(1, "backup", "--data", o.data, "--out", "eco.backup").out().talk(`^ecowatt: eco\.backup exists already; it is not overwritten$`)
	if o.file("eco.backup") != before {
		t.Error("it was overwritten")
	}
	o.run(0, "backup", "--data", o.data, "--out", "other.backup", "--json").talk().answers(`
{
  "file": "other.backup",
  "devices": 1,
  "key_encryption_keys": [
    "` + kek + `"
  ]
}
`)
	o.run(2, "backup", "--data", o.data).out().talk(`^ecowatt: --out: name the file of the backup$`)
	o.run(2, "backup", "--data", o.data, "--db", "x", "--out", "out").out().talk(`^ecowatt: --db: "x" is not of the form sqlite:FILE$`)
	o.run(1, "backup", "--data", "absent", "--out", "out").out().talk(`^ecowatt: there is no database absent/ecowatt\.db to back up$`)
	o.absent("out")
	o.absent("absent")

	o.run(2, "restore", "eco.backup").out().talk(`^ecowatt: --data: name the data folder to restore into$`)
	o.run(2, "restore", "--data", "new").out().talk(`^ecowatt: FILE is missing$`)
	o.run(1, "restore", "absent", "--data", "new").out().talk(`absent`)
	o.run(1, "restore", "roof-1.enrol.json", "--data", "new").out().talk(`^ecowatt: roof-1\.enrol\.json: not an EcoWatt backup, or an incomplete or damaged one$`)
	o.run(1, "restore", filepath.Join(o.data, "ecowatt.db"), "--data", "new").out().talk(`it is a database, with its sessions; 'ecowatt backup' makes a backup of one$`)
	o.absent("new")
	o.run(0, "restore", "eco.backup", "--data", "new").talk().
		out(`^eco\.backup is restored into new: 1 device\.$`, `^Before the cloud starts, put the key ring with `+kek+` there: new/keyring\.json, mode 0600\.$`)
	o.run(1, "restore", "eco.backup", "--data", "new").out().talk(`^ecowatt: the data folder new is not empty, it holds ecowatt\.db: restore into one of its own, or move that away$`)
	o.run(0, "restore", "eco.backup", "--data", "newer", "--json").talk().out(`"file": "eco\.backup"`, `"devices": 1`)
}
