package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/key"
)

// offline is a person at a terminal in a folder of their own, without a cloud.
func offline(t *testing.T) *operator {
	t.Helper()
	return &operator{t: t, dir: t.TempDir(), env: map[string]string{
		"ECOWATT_URL": "http://" + unusedAddress(t), "ECOWATT_TOKEN": "", "ECOWATT_TOKEN_FILE": "",
		"TZ": "UTC", asProgram: "1", "GORACE": "atexit_sleep_ms=0",
	}}
}

func (o *operator) put(name string, data []byte) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), data, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// images puts an image and the one before it.
func (o *operator) images() {
	o.t.Helper()
	image := make([]byte, 200_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(image)
	o.put("old", image)
	o.put("new", append(image[:100_000:100_000], append([]byte("what is new"), image[100_000:]...)...))
}

// pipe runs the program with this on its standard input.
func (o *operator) pipe(code int, stdin string, args ...string) said {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	c := o.command(args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	_ = c.Run() // the exit code tells
	if got := c.ProcessState.ExitCode(); got != code {
		o.t.Errorf("ecowatt %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, &stderr)
	}
	return said{t: o.t, command: "ecowatt " + strings.Join(args, " "), stdout: stdout.String(), stderr: stderr.String()}
}

// signer is a key on standard input.
func signer(t *testing.T, n byte) (line string, k key.Signing) {
	t.Helper()
	seed := bytes.Repeat([]byte{n}, 32)
	k, err := key.SigningFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return signingLine + base64.StdEncoding.EncodeToString(seed) + "\n", k
}

// signedRoot puts a root of trust with release keys 1 and 2, of which both are
// needed, and root key 3.
func (o *operator) signedRoot(name string) {
	o.t.Helper()
	var keys []key.Signing
	var public []ed25519.PublicKey
	for n := range byte(3) {
		_, k := signer(o.t, n+1)
		keys, public = append(keys, k), append(public, k.Public())
	}
	r, err := firmware.NewRoot(1, public[2:], public[:2], 1, 2)
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := writeRoot(filepath.Join(o.dir, name), r, keys[2:]); err != nil {
		o.t.Fatal(err)
	}
}

// From the first root of trust to a release that a device takes, with keys under
// passphrases.
func TestFirmwareRelease(t *testing.T) {
	o := offline(t)
	o.images()
	o.put("phrase", []byte("correct horse battery\n"))
	const phrase = "--passphrase-file=phrase"
	o.run(0, "firmware", "root", "init", "--dir", "keys", phrase).out(
		`^KEY +ROLE +FILE$`, `^[0-9a-f]{16}  root +keys/root-3.key$`, `^[0-9a-f]{16}  release +keys/release-1.key$`, `ecowatt firmware root push keys/firmware-root.1$`)
	o.mode("keys/root-1.key", 0o600)
	o.mode("keys/release-1.key", 0o600)
	if !regexp.MustCompile(fmt.Sprintf(`^age-encryption.org/v1\n-> scrypt \S+ %d\n`, quickWork)).MatchString(o.file("keys/root-1.key")) {
		t.Error("a key is not in the age format under a passphrase that takes work")
	}
	before := o.file("keys/release-1.key")
	o.run(1, "firmware", "root", "init", "--dir", "keys", phrase).out().talk(`keys/firmware-root.1 exists already; it is not overwritten`)
	o.run(1, "firmware", "keygen", "keys/release-1", phrase).out().talk(`keys/release-1.key exists already; it is not overwritten`)
	if o.file("keys/release-1.key") != before {
		t.Error("a key was overwritten")
	}

	o.run(0, "firmware", "build", "new", "--version", "1.4.0", "--release", "12", "--hardware", "gw-1", "--base", "old", "--out", "r.ewfw").out(
		`^diff +\d+ +0\.\d %`, `^full +\d+ +100\.\d %`, `^Release 12 is r.ewfw. Sign it: `)
	o.mode("r.ewfw", 0o600)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1").out().talk(`not signed as it must be: 0 signatures`)
	o.run(1, "firmware", "sign", "r.ewfw", "--key", "keys/release-1.key", "--passphrase-file", "new").talk(`does not open|more than`)
	o.run(0, "firmware", "sign", "r.ewfw", "--key", "keys/release-1.key", phrase).out(`^release 12 \(1.4.0\) carries signatures of [0-9a-f]{16}\.$`)
	signed := o.file("r.ewfw")
	o.run(0, "firmware", "sign", "r.ewfw", "--key", "keys/release-1.key", phrase)
	if o.file("r.ewfw") != signed {
		t.Error("a key that has signed signs once more")
	}
	o.run(0, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--base", "old").answers(`
payload diff makes the image
payload full makes the image
Release 12 (1.4.0) is good under root of trust 1.
`)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--hardware", "gw-2").talk(`for other hardware`)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--running", "12").talk(`older than what may be installed`)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--product", strings.Repeat("ab", 16)).talk(`for another product`)
	o.rotate(phrase)
	o.absent("r.ewfw.new")
}

// rotate takes the release key away, which needs two of three root keys.
func (o *operator) rotate(phrase string) {
	o.t.Helper()
	id := regexp.MustCompile(`"release_keys": \[\s+"([0-9a-f]{16})"`).FindStringSubmatch(o.run(0, "firmware", "inspect", "keys/firmware-root.1", "--json").stdout)
	o.run(0, "firmware", "keygen", "release-2", phrase).out(`^release-2.key is the key [0-9a-f]{16}`)
	o.run(0, "firmware", "root", "rotate", "keys/firmware-root.1", "--remove", id[1], "--add-release", "release-2.pub",
		"--ceiling", "4096", "--floor", "11", "--key", "keys/root-1.key", phrase).out(`^It needs 1 more of the root keys of version 1, and 1 of its own: `)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--root", "keys/firmware-root.2").talk(`firmware-root.2: not signed as it must be`)
	o.run(0, "firmware", "sign", "keys/firmware-root.2", "--key", "keys/root-3.key", phrase)
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--root", "keys/firmware-root.2").talk(`0 signatures of release keys`)
	o.run(0, "firmware", "sign", "r.ewfw", "--key", "release-2.key", phrase)
	o.run(0, "firmware", "verify", "r.ewfw", "--root", "keys/firmware-root.1", "--root", "keys/firmware-root.2").out(`^Release 12 \(1.4.0\) is good under root of trust 2`)
	o.run(1, "firmware", "root", "rotate", "keys/firmware-root.1", "--key", "keys/root-1.key", phrase).talk(`firmware-root.2 exists already`)
	o.run(1, "firmware", "root", "rotate", "keys/firmware-root.2", "--key", "release-2.key", phrase).talk(`is a root key neither of version 2 nor of 3`)
	o.run(0, "firmware", "inspect", "keys/firmware-root.2").out(`^floor +11$`, `^ceiling +4096$`)
}

// Floor and ceiling stay in the roots that follow, until they are changed.
func TestFirmwareFloorAndCeiling(t *testing.T) {
	o := offline(t)
	o.signedRoot("firmware-root.1")
	third, _ := signer(t, 3)
	for i, c := range []struct {
		flags []string
		want  rootInfo
	}{
		{nil, rootInfo{}},
		{[]string{"--ceiling", "4096", "--floor", "11"}, rootInfo{Floor: 11, Ceiling: 4096}},
		{nil, rootInfo{Floor: 11, Ceiling: 4096}},
		{[]string{"--floor", "12"}, rootInfo{Floor: 12, Ceiling: 4096}},
		{[]string{"--ceiling", "5000"}, rootInfo{Ceiling: 5000}},
		{[]string{"--ceiling", "0"}, rootInfo{}},
	} {
		before := fmt.Sprint(rootFile, i+1)
		said := o.pipe(0, third, append([]string{"firmware", "root", "rotate", before, "--key", "-", "--json"}, c.flags...)...)
		var made rootRotated
		if err := json.Unmarshal([]byte(said.stdout), &made); err != nil {
			t.Fatal(err)
		}
		if made.Root.Floor != c.want.Floor || made.Root.Ceiling != c.want.Ceiling || made.MissingOld != 0 || made.MissingNew != 0 {
			t.Errorf("after %s with %q: %+v", before, c.flags, made)
		}
	}
}

// Several people sign, each with a key on standard input; a release that another
// one has built is checked by building it again.
func TestFirmwareApproval(t *testing.T) {
	o := offline(t)
	o.images()
	o.signedRoot("root")
	first, _ := signer(t, 1)
	second, _ := signer(t, 2)
	args := []string{
		"firmware", "build", "new", "--version", "1.4.0", "--release", "12", "--security", "2", "--hardware", "gw-1", "--hardware", "gw-2", "--base", "old",
		"--min-from", "3", "--created", "2026-06-21T10:00:00Z", "--expires", "2099-01-01", "--min-root", "1", "--downgrade-from", "14,15", "--min-protocol", "1", "--sbom", "old",
	}
	o.run(0, append(args, "--out", "r.ewfw")...)
	o.run(0, append(args, "--reproduce", "r.ewfw")...).out(`^r.ewfw is release 12 of this image, byte for byte.$`)
	o.absent("new-12.ewfw")
	o.run(1, append(args, "--reproduce", "r.ewfw", "--version", "1.4.1")...).talk(`another release: what the manifest says beside the images differs`)
	other := slices.Clone(args)
	other[2] = "old"
	o.run(2, append(other, "--reproduce", "r.ewfw")...).talk(`--base: old is the image itself`)
	o.put("third", append([]byte("not that"), o.file("new")...))
	other[2] = "third"
	o.run(1, append(other, "--reproduce", "r.ewfw")...).talk(`another release: its image is [0-9a-f]{64}, this one is [0-9a-f]{64}`)

	o.pipe(0, first, "firmware", "sign", "r.ewfw", "--key", "-")
	o.run(1, "firmware", "verify", "r.ewfw", "--root", "root").talk(`1 signatures of release keys, 2 are needed`)
	o.pipe(0, second, "firmware", "sign", "r.ewfw", "--key", "-")
	o.run(0, "firmware", "verify", "r.ewfw", "--root", "root").out(`^payload diff is whole, but its base is not here: [0-9a-f]{64}$`)
	var shown statementInfo
	if err := json.Unmarshal([]byte(o.run(0, "firmware", "inspect", "r.ewfw", "--json").stdout), &shown); err != nil {
		t.Fatal(err)
	}
	r := shown.Release
	if r.Security != 2 || r.MinFrom != 3 || r.Created.Unix() != 1782036000 || r.Expires.Year() != 2099 || r.MinRoot != 1 || r.MinProtocol != 1 || r.SBOM == "" ||
		!slices.Equal(r.Hardware, []string{"gw-1", "gw-2"}) || !slices.Equal(r.DowngradeFrom, []uint64{14, 15}) || len(r.SignedBy) != 2 {
		t.Errorf("the manifest does not say what was asked for: %+v", r)
	}
	damaged := []byte(o.file("r.ewfw"))
	damaged[len(damaged)/2] ^= 1
	o.put("damaged.ewfw", damaged)
	o.run(1, "firmware", "verify", "damaged.ewfw", "--root", "root").talk(`not the chunk of the table`)
	o.pipe(1, first, "firmware", "sign", "damaged.ewfw", "--key", "-").talk(`not the chunk of the table`)
	if o.file("damaged.ewfw") != string(damaged) {
		t.Error("a bundle that could not be signed was changed")
	}
	o.absent("damaged.ewfw.new")
}

// Built once more, a release differs in what is random, and in nothing else.
func TestFirmwareBuildsAreTheSame(t *testing.T) {
	o := offline(t)
	o.images()
	var bundles [2]*firmware.BundleReader
	for i, name := range []string{"1.ewfw", "2.ewfw"} {
		o.run(0, "firmware", "build", "new", "--version", "1.4.0", "--release", "12", "--hardware", "gw-1", "--base", "old", "--out", name)
		b, err := firmware.ReadBundle(strings.NewReader(o.file(name)), maxBundle)
		if err != nil {
			t.Fatal(err)
		}
		bundles[i] = b
	}
	one, two := bundles[0], bundles[1]
	if one.Content.Secret() == two.Content.Secret() {
		t.Error("two releases have one content key")
	}
	for i := range one.Manifest.Payloads {
		p, q := &one.Manifest.Payloads[i], two.Manifest.Payloads[i]
		if bytes.Equal(p.Commitment[:firmware.SaltSize], q.Commitment[:firmware.SaltSize]) {
			t.Errorf("payload %d has the same salt twice", i)
		}
		p.Commitment, p.ContentKey, p.Artifact, p.Table = q.Commitment, q.ContentKey, q.Artifact, q.Table
	}
	if diff := cmp.Diff(one.Manifest, two.Manifest); diff != "" {
		t.Errorf("what is not random differs:\n%s", diff)
	}
}

// A signed statement lets a device go back, once as many have signed it as must.
func TestFirmwareDowngrade(t *testing.T) {
	o := offline(t)
	o.images()
	o.signedRoot("root")
	first, _ := signer(t, 1)
	second, _ := signer(t, 2)
	o.run(0, "firmware", "build", "new", "--version", "1.3.9", "--release", "11", "--hardware", "gw-1", "--out", "r.ewfw")
	o.pipe(0, first, "firmware", "sign", "r.ewfw", "--key", "-")
	o.pipe(0, second, "firmware", "sign", "r.ewfw", "--key", "-")
	o.run(0, "firmware", "downgrade", "--from", "12", "--to", "11", "--device", "roof-2", "--device", "roof-1", "--device", "roof-2", "--expires", "2099-01-01").out(
		`^It is downgrade-12-11. Sign it: `)
	verify := func(args ...string) []string {
		return append([]string{"firmware", "verify", "r.ewfw", "--root", "root", "--running", "12"}, args...)
	}
	allowed := verify("--downgrade", "downgrade-12-11", "--device", "roof-1")
	o.run(1, verify("--device", "roof-1")...).talk(`older than what may be installed`)
	o.pipe(0, second, "firmware", "sign", "downgrade-12-11", "--key", "-")
	o.run(1, allowed...).talk(`downgrade-12-11: verifying a downgrade: not signed as it must be: 1 signatures`)
	o.pipe(0, first, "firmware", "sign", "downgrade-12-11", "--key", "-").out(`^downgrade from release 12 to 11 carries signatures of [0-9a-f]{16}, [0-9a-f]{16}\.$`)
	o.run(0, allowed...)
	o.run(1, append(allowed, "--device", "roof-3")...).talk(`older than what may be installed`)
	o.run(1, append(allowed, "--running", "13")...).talk(`older than what may be installed`)
	o.run(1, append(allowed, "--security", "1")...).talk(`security version 0, at least 1`)
	o.run(0, "firmware", "inspect", "downgrade-12-11").out(`^devices +roof-1, roof-2$`, `^expires +2099-01-01T00:00:00Z$`)
	o.pipe(0, first, "firmware", "downgrade", "--from", "12", "--to", "11", "--expires", "2020-01-01", "--key", "-", "--out", "late").out(
		`^downgrade from release 12 to 11 carries signatures of [0-9a-f]{16}\. It is late\.$`)
	o.pipe(0, second, "firmware", "sign", "late", "--key", "-")
	o.run(1, verify("--downgrade", "late")...).talk(`older than what may be installed`)
}

// A release that was signed, and is not what it says: verify does not stop at the
// signatures.
func TestFirmwareVerifiesWhatWasSigned(t *testing.T) {
	o := offline(t)
	o.images()
	o.signedRoot("root")
	image, secret := []byte(o.file("new")), [32]byte{9}
	k, err := key.ContentFromBytes(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(image)
	other[1000] ^= 1
	for name, x := range map[string]struct {
		plain []byte // that is packed
		edit  func(*firmware.Packed)
		says  string
	}{
		"good":          {image, nil, ""},
		"another image": {other, nil, `payload 0 \(full\): .*its SHA-256 is another one`},
		"another table": {image, func(p *firmware.Packed) {
			p.Table[40] ^= 1
			p.Payload.Table = sha256.Sum256(p.Table)
		}, `payload 0 \(full\): not the chunk of the table: chunk 1`},
	} {
		frame, err := delta.Full(x.plain)
		if err != nil {
			t.Fatal(err)
		}
		m := firmware.Manifest{
			Format: 1, Product: firmware.ProductID([]byte(ecowatt.Product)), Hardware: []string{"gw-1"}, Version: "1", Release: 1,
			Size: uint64(len(image)), Image: sha256.Sum256(image),
		}
		p, err := firmware.Pack(firmware.Source{Kind: firmware.KindFull, Plain: frame, Window: delta.FullWindow}, k, m.Product, rand.NewChaCha8(secret))
		if err != nil {
			t.Fatal(err)
		}
		if x.edit != nil {
			x.edit(&p)
		}
		m.Payloads = []firmware.Payload{p.Payload}
		e, err := m.Unsigned()
		if err != nil {
			t.Fatal(err)
		}
		_, first := signer(t, 1)
		_, second := signer(t, 2)
		if e, err = signAll(firmware.StatementManifest, e, []key.Signing{first, second}); err != nil {
			t.Fatal(err)
		}
		var bundle bytes.Buffer
		files := map[[32]byte][]byte{p.Payload.Artifact: p.Artifact, p.Payload.Table: p.Table}
		err = firmware.WriteBundle(&bundle, firmware.Bundle{Envelope: e, Content: k, Open: func(f firmware.File) (io.Reader, error) {
			return bytes.NewReader(files[f.Name]), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		o.put(name, bundle.Bytes())
		if x.says == "" {
			o.run(0, "firmware", "verify", name, "--root", "root").out(`^payload full makes the image$`)
		} else {
			o.run(1, "firmware", "verify", name, "--root", "root").out().talk(x.says)
		}
	}
}

// What cannot be meant is refused, and nothing is made.
func TestFirmwareRefuses(t *testing.T) {
	o := offline(t)
	o.images()
	o.signedRoot("root")
	o.put("empty", nil)
	o.put("short", []byte("too short\n"))
	o.put("open", []byte("correct horse battery\n"))
	if err := os.Chmod(filepath.Join(o.dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	line, _ := signer(t, 1)
	o.put("plain.key", []byte(line))
	o.put("bad.pub", []byte("ecowatt-public-key-1 AAAA\n"))
	before, err := os.ReadDir(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	build := []string{"firmware", "build", "new", "--version", "1", "--release", "1", "--hardware", "g"}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, `firmware what\? Choose from`, []string{"firmware"}},
		{2, `--version is missing`, []string{"firmware", "build", "new"}},
		{2, `--release is missing`, []string{"firmware", "build", "new", "--version", "1"}},
		{2, `--hardware is missing`, []string{"firmware", "build", "new", "--version", "1", "--release", "1"}},
		{2, `--product: "x" has not 32 hexadecimal digits`, append(build, "--product", "x")},
		{2, `--expires: "soon" is no time`, append(build, "--expires", "soon")},
		{2, `--downgrade-from: 0 is no release`, append(build, "--downgrade-from", "0")},
		{2, `--reproduce writes no file`, append(build, "--reproduce", "r", "--out", "s")},
		{1, `root is no bundle`, append(build, "--reproduce", "root")},
		{1, `the version is not a text`, append(build, "--version", "a\nb")},
		{1, `empty is empty`, []string{"firmware", "build", "empty", "--version", "1", "--release", "1", "--hardware", "g"}},
		{1, `old exists already; it is not overwritten`, append(build, "--out", "old")},
		{2, `--root-threshold: 4 is not within 1 and 3`, []string{"firmware", "root", "init", "--root-threshold", "4"}},
		{2, `--release-keys: 0 is not within`, []string{"firmware", "root", "init", "--release-keys", "0"}},
		{2, `17 keys in all`, []string{"firmware", "root", "init", "--root-keys", "15", "--release-keys", "2"}},
		{1, `a passphrase of 9 bytes is too short`, []string{"firmware", "root", "init", "--passphrase-file", "short"}},
		{1, `open with the passphrase is open to others \(mode 0644\)`, []string{"firmware", "keygen", "k", "--passphrase-file", "open"}},
		{2, `--remove: "x" is not the id of a key`, []string{"firmware", "root", "rotate", "root", "--remove", "x"}},
		{2, `--remove: 0011223344556677 is no key of version 1`, []string{"firmware", "root", "rotate", "root", "--remove", "0011223344556677"}},
		{1, `bad.pub: no line of the form ecowatt-public-key-1 BASE64`, []string{"firmware", "root", "rotate", "root", "--add-root", "bad.pub"}},
		{1, `3 of 2 release keys`, []string{"firmware", "root", "rotate", "root", "--release-threshold", "3"}},
		{1, `a floor without a ceiling`, []string{"firmware", "root", "rotate", "root", "--floor", "3"}},
		{1, `new: reading an envelope|new has more than`, []string{"firmware", "root", "rotate", "new"}},
		{2, `--from is missing`, []string{"firmware", "downgrade"}},
		{2, `--to is missing`, []string{"firmware", "downgrade", "--from", "2"}},
		{2, `--to: release 2 is not earlier than 2`, []string{"firmware", "downgrade", "--from", "2", "--to", "2"}},
		{2, `--expires is missing, or --device`, []string{"firmware", "downgrade", "--from", "2", "--to", "1"}},
		{2, `--expires: "soon" is no time`, []string{"firmware", "downgrade", "--from", "2", "--to", "1", "--expires", "soon"}},
		{2, `--device: `, []string{"firmware", "downgrade", "--from", "2", "--to", "1", "--device", "a b"}},
		{2, `--product: "x" has not 32`, []string{"firmware", "downgrade", "--from", "2", "--to", "1", "--device", "a", "--product", "x"}},
		{1, `old exists already; it is not overwritten`, []string{"firmware", "downgrade", "--from", "2", "--to", "1", "--device", "a", "--out", "old"}},
		{2, `--key is missing`, []string{"firmware", "sign", "root"}},
		{1, `plain.key is no signing key under a passphrase`, []string{"firmware", "sign", "root", "--key", "plain.key"}},
		{1, `the key on standard input: no line of the form`, []string{"firmware", "sign", "root", "--key", "-"}},
		{2, `--root is missing`, []string{"firmware", "verify", "root"}},
		{1, `no bundle but an envelope alone`, []string{"firmware", "verify", "root", "--root", "root"}},
		{1, `empty: it is empty`, []string{"firmware", "inspect", "empty"}},
		{1, `old: .*not of the format`, []string{"firmware", "inspect", "old"}},
		{1, `absent: no such file`, []string{"firmware", "inspect", "absent"}},
		{3, `no token to show`, []string{"firmware", "root", "push", "root"}},
	} {
		o.run(c.code, c.args...).out().talk(c.says)
	}
	after, err := os.ReadDir(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(before), names(after)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func names(entries []os.DirEntry) (list []string) {
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// The cloud takes the first root of trust, and then each that follows the newest;
// what is not signed as it must be is not even sent.
func TestFirmwareRootPush(t *testing.T) {
	o := newOperator(t)
	o.signedRoot("root")
	o.put("unsigned", bytes.Replace([]byte(o.file("root")), []byte("application/ecowatt-fw-root"), []byte("application/ecowatt-fw-tree"), 1))
	o.run(1, "firmware", "root", "push", "unsigned").out().talk(`0 signatures of its own root keys, 1 are needed`)
	o.run(0, "log").never(`firmware`)
	o.run(0, "firmware", "root", "push", "root").answers(o.env["ECOWATT_URL"] + " trusts root 1.\n")
	o.run(0, "firmware", "root", "push", "root").answers(o.env["ECOWATT_URL"] + " has root 1 already; the newest is 1.\n")
	o.run(0, "firmware", "root", "push", "root", "--json").out(`"version": 1`)
	o.copyOf("root.cbor")
	o.run(1, "firmware", "root", "push", "root.cbor").out().talk(`^ecowatt: root.cbor: not signed as it must be: `)
	o.run(0, "log").out(`administrator .* firmware\.root_added +root of trust 1 for firmware added`, `firmware\.refused +root of trust refused: `)
}

// copyOf copies a vector of the format into the folder.
func (o *operator) copyOf(name string) []byte {
	o.t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "firmware", "testdata", name))
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(name, b)
	return b
}
