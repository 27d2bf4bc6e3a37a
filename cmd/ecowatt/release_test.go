package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ecowatt/cloud/access"
	"ecowatt/cloud/api"
)

// A release from its bundle to the cloud and away again, by every name that it has.
func TestFirmwarePush(t *testing.T) {
	o := newOperator(t)
	o.copyOf("release.ewfw")
	o.copyOf("root.cbor")
	o.run(0, "firmware", "list").out().talk(`^The cloud has no root of trust: ecowatt firmware root push FILE$`)
	o.run(1, "firmware", "push", "release.ewfw").out().talk(`^ecowatt: release.ewfw: the cloud has no root of trust by which to verify it: publish one with`)
	o.run(0, "firmware", "root", "push", "root.cbor")
	o.run(0, "firmware", "list").out().talk(`^There are no releases\.$`)
	o.use(access.Operator)
	operator := o.env["ECOWATT_TOKEN"]
	o.run(0, "firmware", "push", "release.ewfw").answers("Release 12 (1.4.0) is there. Roll it out: ecowatt rollout create 1.4.0\n").talk()
	o.run(0, "firmware", "push", "release.ewfw").answers("Release 12 (1.4.0) was there already.\n")
	id := regexp.MustCompile(`[0-9a-f]{64}`).FindString(o.run(0, "firmware", "push", "release.ewfw", "--json").out(`"added": false`, `"missing": 0`).stdout)
	o.run(0, "firmware", "list").talk().out(`^RELEASE +VERSION +SECURITY +HARDWARE +IMAGE +FILES +ADDED +BY +ID$`,
		`^ +12  1\.4\.0 +3  gw-1, gw-2  20\.0 kB  diff 353 B, patch 347 B, full 20\.0 kB  20.*  operator-token  `+id[:16]+`$`)
	for _, name := range []string{"1.4.0", "12", id, id[:8]} {
		o.run(0, "firmware", "show", name).out(`^release +12 \(1\.4\.0\)$`, `^id +`+id+`$`, `^added +20.* by operator-token$`, `^full +20046 +100\.2 %  —$`)
	}
	o.run(4, "firmware", "show", "1.5.0").out().talk(`^ecowatt: there is no release "1\.5\.0"$`, `^ecowatt firmware list tells which there are\.$`)
	o.run(4, "firmware", "show", id[:7])
	o.use(access.Viewer)
	o.run(0, "firmware", "show", "12", "--json").out(`"id": "` + id + `"`)
	o.run(3, "firmware", "remove", "12").out().talk(`may not add or remove releases: that takes the role operator$`)
	o.run(3, "firmware", "push", "release.ewfw").out().talk(`may not add or remove releases`)
	o.env["ECOWATT_TOKEN"] = operator
	o.run(3, "firmware", "root", "push", "root.cbor").talk(`may not add a root of trust: that takes the role administrator$`)
	o.run(0, "firmware", "remove", "1.4.0").answers("Release 12 (1.4.0) is removed.\n")
	o.run(4, "firmware", "remove", "1.4.0").out()
}

// What the cloud refuses is told with the name of the file, and is no wrong usage;
// what is no signed bundle is not even sent.
func TestFirmwarePushRefused(t *testing.T) {
	o := newOperator(t)
	root, bundle := o.copyOf("root.cbor"), o.copyOf("release.ewfw")
	o.run(0, "firmware", "root", "push", "root.cbor")
	flipped := bytes.Clone(bundle)
	flipped[len(flipped)-3*512] ^= 1
	o.put("damaged", flipped)
	o.run(1, "firmware", "push", "damaged").out().talk(`^ecowatt: damaged: reading [0-9a-f]{64}: not the chunk of the table: its SHA-256 is another one$`)
	o.put("text", []byte("hello"))
	o.run(1, "firmware", "push", "text").out().talk(`^ecowatt: text: `)
	o.run(1, "firmware", "push", "root.cbor").out().talk(`^ecowatt: root.cbor is no bundle$`)
	o.run(1, "firmware", "push", "absent").out().talk(`absent: no such file`)
	o.images()
	o.run(0, "firmware", "build", "new", "--version", "2", "--release", "2", "--hardware", "gw-1", "--out", "unsigned")
	o.run(1, "firmware", "push", "unsigned").out().talk(`^ecowatt: unsigned is not signed$`, `^Sign it: ecowatt firmware sign unsigned --key KEY$`)
	o.run(0, "log", "--last", "1").out(`firmware\.refused +release refused: .* reason=FW_BAD_CHUNK$`)
	if left, err := filepath.Glob(filepath.Join(o.data, "artifacts", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	if len(root) == 0 {
		t.Error("there is no root")
	}
}

// Two releases of one version are told apart by their ids.
func TestReleaseNames(t *testing.T) {
	var got []string
	a, b := api.Release{ID: strings.Repeat("a", 64), Version: "1.4.0", Release: 12}, api.Release{ID: strings.Repeat("b", 64), Version: "1.4.0", Release: 13}
	c := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path)
		if err := json.NewEncoder(w).Encode(api.ReleaseList{Releases: []api.Release{b, a}}); err != nil {
			t.Error(err)
		}
	})
	for name, want := range map[string]string{"12": a.ID, "13": b.ID, "aaaaaaaa": a.ID, b.ID: b.ID} {
		if r, err := c.release(t.Context(), name); err != nil || r.ID != want {
			t.Errorf("%s: %s, %v", name, r.ID, err)
		}
	}
	if _, err := c.release(t.Context(), "1.4.0"); codeOf(err) != exitUsage || !strings.Contains(err.Error(), `"1.4.0" names several: bbbbbbbbbbbbbbbb, aaaaaaaaaaaaaaaa`) {
		t.Errorf("%v", err)
	}
	if len(got) != 5 || got[0] != releasesPath {
		t.Errorf("asked for %v", got)
	}
}

func TestBar(t *testing.T) {
	for _, x := range []struct {
		done, bad, all int
		want           string
	}{
		{0, 0, 0, "[··········]"},
		{0, 0, 7, "[··········]"},
		{5, 0, 10, "[█████·····]"},
		{10, 0, 10, "[██████████]"},
		{10, 10, 10, "[××××××××××]"},
		{1000, 1, 1000, "[█████████×]"},
		{1, 1, 1000, "[×·········]"},
		{6, 2, 10, "[████××····]"},
	} {
		if got := bar(x.done, x.bad, x.all, 10); got != x.want {
			t.Errorf("%d, %d bad, of %d: %s, want %s", x.done, x.bad, x.all, got, x.want)
		}
	}
	if newLive(&bytes.Buffer{}).seen() {
		t.Error("a buffer is no terminal")
	}
}
