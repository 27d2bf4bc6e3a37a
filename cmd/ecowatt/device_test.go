package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
)

func TestDeviceAdd(t *testing.T) {
	o := newOperator(t)
	// A device comes with its enrolment file, for its owner alone; the key in it
	// is not printed.
	o.run(0, "device", "add", "roof-1", "--group", "north", "--notes", "on the barn", "--out", "roof.json").answers(`
roof-1 added. Its enrolment file, which holds its key, is roof.json.
On the gateway: ecowatt-agent enroll roof.json --dir DIR
`).talk()
	o.mode("roof.json", 0o600)
	shape := regexp.MustCompile(`(?s)^\{\n  "device_id": "roof-1",\n  "cloud_url": "http://127[^"]+",\n  "epoch": 1,\n  "psk_id": "[0-9a-f]{32}",\n  "key": "[^"]{44}",\n  "firmware_root": ""\n\}\n$`)
	before := o.file("roof.json")
	if !shape.MatchString(before) {
		t.Errorf("the enrolment file is %s", before)
	}
	// The root of trust for firmware comes with it, once there is one.
	root := o.copyOf("root.cbor")
	o.run(0, "firmware", "root", "push", "root.cbor").out(` trusts root 1\.$`)
	// By default the file is named after the device.
	key := regexp.MustCompile(`"key": "(.*)"`)
	added := o.run(0, "device", "add", "roof-2", "--cloud-url", "https://eco.example", "--json").out(`"file": "roof-2.enrol.json"`, `"id": "roof-2"`)
	o.mode("roof-2.enrol.json", 0o600)
	file := o.file("roof-2.enrol.json")
	if !strings.Contains(file, `"cloud_url": "https://eco.example"`) || !strings.Contains(file, `"firmware_root": "`+base64.StdEncoding.EncodeToString(root)+`"`) {
		t.Errorf("the enrolment file is %s", file)
	}
	added.never(regexp.QuoteMeta(key.FindStringSubmatch(file)[1]))

	// A file is never overwritten, and then no device is added.
	o.run(1, "device", "add", "roof-3", "--out", "roof.json").out().talk(`^ecowatt: roof\.json exists already; it is not overwritten$`)
	if diff := cmp.Diff(before, o.file("roof.json")); diff != "" {
		t.Errorf("the file that was there (-before +after):\n%s", diff)
	}
	o.run(1, "device", "add", "roof-3", "--out", "absent/roof.json").out().talk(`absent/roof\.json: no such file or directory$`)
	o.run(4, "device", "show", "roof-3")

	// What is refused leaves no file behind.
	for _, refused := range []struct {
		code int
		says string
		args []string
	}{
		{1, `^ecowatt: there is a device "roof-1" already$`, []string{"roof-1"}},
		{2, `^ecowatt: group "No Good": not a valid name: `, []string{"roof-4", "--group", "No Good"}},
		{2, `^ecowatt: notes: control characters are not allowed$`, []string{"roof-4", "--notes", "\x1b[2J"}},
		{2, `^ecowatt: cloud_url: use http://HOST or https://HOST$`, []string{"roof-4", "--cloud-url", "ftp://x"}},
		{2, `^ecowatt: device id "No Good": not a valid name: `, []string{"No Good"}},
		{2, `^ecowatt: device id "\.\./escape": not a valid name: `, []string{"../escape"}},
		{2, `^ecowatt: ID is missing$`, nil},
		{2, `^ecowatt: unexpected argument "roof-5"$`, []string{"roof-4", "roof-5"}},
	} {
		o.run(refused.code, append([]string{"device", "add"}, refused.args...)...).out().talk(refused.says)
	}
	names, err := filepath.Glob(filepath.Join(o.dir, "*.json"))
	if err != nil || len(names) != 2 {
		t.Errorf("files: %v, %v; want the two that were asked for", names, err)
	}
	o.run(0, "device", "list", "--json").never("roof-[3-9]")
}

// When the file cannot be written after the device was added, the person learns
// what has happened.
func TestDeviceAddCannotWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := fakeCloud(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"device":{"id":"roof-1"},"enrolment":{"key":"secret"}}`)
	})
	var out bytes.Buffer
	a := &app{stdout: &out}
	err := a.addDevice(t.Context(), c, addRequest{NewDevice: api.NewDevice{ID: "roof-1"}, out: filepath.Join(dir, "roof-1.json")})
	if err == nil || !strings.Contains(err.Error(), "device roof-1 was added, but") || codeOf(err) != exitFailed {
		t.Errorf("the error is %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") || out.Len() > 0 {
		t.Errorf("says %v, prints %q", err, &out)
	}
}

func TestDeviceList(t *testing.T) {
	o := newOperator(t)
	// An empty fleet is no error.
	o.run(0, "device", "list").out().talk(`^There are no devices\. Add one with 'ecowatt device add ID'\.$`)
	o.run(0, "device", "list", "--json").answers("{\n  \"devices\": []\n}\n").talk()
	o.run(0, "device", "add", "roof-1", "--group", "north")
	o.run(0, "device", "add", "roof-2")
	o.run(0, "device", "list").answers(`
ID      GROUP  STATE    LAST SEEN  EPOCH  AGENT  INVERTERS
roof-1  north  enabled      never      1  —      —
roof-2  —      enabled      never      1  —      —
`).talk()
	o.run(0, "device", "list", "--group", "north").out("roof-1").never("roof-2")
	o.run(0, "device", "list", "--json").out(`"id": "roof-2"`, `"last_seen": null`)
	o.run(2, "device", "list", "--group", "No Good").out().talk(`^ecowatt: group "No Good": `)
	o.report()
	o.run(0, "device", "disable", "roof-1").answers("roof-1 is disabled.\n")
	o.run(0, "device", "list").out(`^roof-1  north  disabled      never      1  0\.1\.0 \(3\)  inv1, inv2$`)
	o.run(0, "device", "enable", "roof-1", "--json").out(`"disabled": false`)
	o.run(4, "device", "disable", "nobody").out().talk(`^ecowatt: there is no device "nobody"$`)
	o.run(2, "device").out().talk(`^ecowatt: device what\? Choose from: add, list, show, disable, enable, set, rotate-key, recover$`)
}

// A fleet of more than a page is listed whole.
func TestDevicePages(t *testing.T) {
	pages := map[string]string{
		"":  `{"devices":[{"id":"a"},{"id":"b"}],"next":"b"}`,
		"b": `{"devices":[{"id":"c"},{"id":"d"}],"next":"d"}`,
		"d": `{"devices":[{"id":"e"}]}`,
	}
	c := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("group"); got != "north" {
			t.Errorf("asked for the group %q", got)
		}
		fmt.Fprint(w, pages[r.URL.Query().Get("after")])
	})
	devices, err := c.devices(t.Context(), "north")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range devices {
		got = append(got, d.ID)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeviceShow(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1", "--notes", "on\nthe barn")
	o.run(0, "device", "show", "roof-1").out(`^device     roof-1$`, `^group      —$`, `^state      enabled$`, `^notes      on the barn$`,
		`^last seen  never$`, `^key epoch  1, since 20`, `^agent      has not reported yet$`)
	o.report()
	// What a device says of itself cannot move the cursor.
	o.run(0, "device", "show", "roof-1").never("\x1b").out(
		`^agent      0\.1\.0 on arm, writing to inverters allowed$`, `^firmware   0\.1\.0, release 3, confirmed$`,
		`^inv1: M, serial S�\[31m1, profile ecowatt-sim 1$`,
		`^POINT  UNIT  WRITABLE$`, `^pac    W     —$`, `^limit  %     0\.0 to 100\.0$`, `^inv2: —, serial —, profile —$`)
	o.run(0, "device", "show", "roof-1", "--json").out(`"exponent": -1`, `"control_allowed": true`).never("clone_suspected_at")
	o.run(4, "device", "show", "nobody").out().talk(`^ecowatt: there is no device "nobody"$`)
	o.run(2, "device", "show").out().talk(`^ecowatt: ID is missing$`)
}

// What has happened to a device's security is shown with it, and asked for in the log.
func TestSecurityEvents(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.run(0, "device", "add", "roof-2")
	o.run(0, "device", "show", "roof-1").never("security|clone")
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			for _, r := range []audit.Record{
				{Device: "roof-2", Action: "session.confirmed", Attrs: map[string]string{audit.AttrReason: "SESS_CONFIRMED"}},
				{Device: "roof-1", Action: "device.clone_suspect", Text: "two devices\x1b[2J", Attrs: map[string]string{audit.AttrReason: "CLONE_SUSPECT"}},
			} {
				r.At, r.Actor = reported, audit.Actor{Kind: audit.Device, Name: string(r.Device)}
				if err := tx.Append(r); err != nil {
					return err
				}
			}
			_, err := tx.Alarm(session.Alarm{Device: 1, Reason: "CLONE_SUSPECT", Count: 1, At: time.Now()})
			return err
		})
	})
	o.run(0, "device", "show", "roof-1").never("\x1b|SESS_CONFIRMED").out(
		`^clone      two devices seemed to have its key [0-9]+ s ago, 20`,
		`^Last security events; all of them: ecowatt log --security --last 0 --device roof-1$`,
		`^TIME +REASON +WHAT$`, `^2026-06-21 10:00:00  CLONE_SUSPECT  two devices.\[2J$`)
	o.run(0, "device", "show", "roof-1", "--json").out(`"clone_suspected_at": "20`)
	o.run(0, "device", "list").out(`^roof-1  —      enabled, clone\?      never`, `^roof-2  —      enabled              never`)
	o.run(0, "log", "--security").out(`roof-2 .*SESS_CONFIRMED`, `roof-1 .*CLONE_SUSPECT`).never("added")
	o.run(0, "log", "--security", "--device", "roof-1").out(`CLONE_SUSPECT`).never("added|SESS_CONFIRMED")
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)
	for ago, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 119 * time.Second: "119 s", 2 * time.Minute: "2 min", 119 * time.Minute: "119 min",
		2 * time.Hour: "2 h", 47 * time.Hour: "47 h", 48 * time.Hour: "2 d", 1000 * time.Hour: "41 d",
	} {
		if got := age(now.Add(-ago), now); got != want {
			t.Errorf("%v ago is %q, want %q", ago, got, want)
		}
	}
}
