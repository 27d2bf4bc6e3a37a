package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/boot"
	"ecowatt/internal/disk"
)

// images are agents as releases have them, each built once.
type images struct{ good, crashes, deaf, sick string }

// imagesFolder is where they are, beside the programs.
const imagesFolder = "-images"

// buildImages builds an agent of another version, one that ends at once, one that
// never reaches the cloud, and one that cannot read the inverter.
var buildImages = sync.OnceValues(func() (m images, err error) {
	dir := bin + imagesFolder
	source, err := filepath.Abs(filepath.Join("..", "..", "ecowatt.go"))
	if err != nil {
		return m, err
	}
	text, err := os.ReadFile(source)
	if err != nil {
		return m, err
	}
	changed, overlay := filepath.Join(dir, "ecowatt.go"), filepath.Join(dir, "overlay.json")
	if err := errors.Join(
		os.MkdirAll(dir, 0o700),
		os.WriteFile(changed, bytes.Replace(text, []byte(`const Version = "`), []byte(`const Version = "9.`), 1), 0o600),
		os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, source, changed), 0o600),
	); err != nil {
		return m, err
	}
	build := func(name, program string, flags ...string) string {
		out := filepath.Join(dir, name)
		c := exec.CommandContext(context.Background(), "go", append(append([]string{"build", "-o", out}, flags...), program)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, failed := c.CombinedOutput(); failed != nil {
			err = fmt.Errorf("building %s: %w\n%s", name, failed, said)
		}
		return out
	}
	bad := func(fault string) string {
		return build(fault, "./testdata/badagent", "-ldflags=-s -w -X main.fault="+fault)
	}
	m = images{good: build("good", "ecowatt/cmd/ecowatt-agent", "-overlay="+overlay, "-ldflags=-s -w"), crashes: bad("crashes"), deaf: bad("deaf"), sick: bad("sick")}
	return m, err
})

// newUpdatable sets up n gateways that take updates, and starts them.
func newUpdatable(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{}
	f.startServers(t, n)
	writeFile(t, filepath.Join(f.dir, "phrase"), "no sun today\n")
	f.newRoot(t, f.keys(""))
	must(t, f.env, "ecowatt", "firmware", "root", "push", f.keys("firmware-root.1"))
	for i := range n {
		name := fmt.Sprintf("roof-%d", i+1)
		f.addRoof(t, name, 17+i)
		f.board(t, name, "gw-1")
		f.startUpdatable(t, name, "1s", "15s")
	}
	for _, name := range f.roofs {
		f.runs(t, name, 0)
	}
	return f
}

// newRoot makes a root of trust, with one root key and one release key.
func (f *fleet) newRoot(t *testing.T, folder string) {
	t.Helper()
	must(t, nil, "ecowatt", "firmware", "root", "init", "--dir", folder, f.phrase(), "--root-keys", "1", "--root-threshold", "1")
}

func (f *fleet) keys(name string) string { return filepath.Join(f.dir, "keys", name) }

// phrase is the flag for the passphrase of all keys.
func (f *fleet) phrase() string { return "--passphrase-file=" + filepath.Join(f.dir, "phrase") }

// board lets a gateway be of a board revision from its next start on.
func (f *fleet) board(t *testing.T, name, revision string) {
	t.Helper()
	file := filepath.Join(f.roof(name), "agent.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(text), "hardware:")
	writeFile(t, file, before+"hardware: "+revision+"\n")
}

// startUpdatable starts a gateway whose images on trial have to do well for as long as
// stable says, and to be confirmed within limit.
func (f *fleet) startUpdatable(t *testing.T, name, stable, limit string) {
	t.Helper()
	f.launchers[name] = startIn(t, "", []string{"ECOWATT_TRIAL_STABLE=" + stable, "ECOWATT_TRIAL_TIME=" + limit}, filepath.Join(bin, "ecowatt-boot"), "--dir", f.roof(name))
}

// release builds, signs and pushes one.
func (f *fleet) release(t *testing.T, image, version string, number int, flags ...string) {
	t.Helper()
	f.releaseBy(t, "release-1", image, version, number, flags...)
}

// releaseBy is release with the key that signs.
func (f *fleet) releaseBy(t *testing.T, key, image, version string, number int, flags ...string) {
	t.Helper()
	bundle := filepath.Join(f.dir, version+".ewfw")
	must(t, nil, "ecowatt", slices.Concat([]string{"firmware", "build", image, "--version", version, "--release", fmt.Sprint(number), "--out", bundle}, flags)...)
	must(t, nil, "ecowatt", "firmware", "sign", bundle, "--key", f.keys(key+".key"), f.phrase())
	must(t, f.env, "ecowatt", "firmware", "push", bundle)
}

// runs waits until the cloud knows that a device runs a release for good.
func (f *fleet) runs(t *testing.T, name string, number int) {
	t.Helper()
	type device struct {
		Firmware *struct {
			Release int    `json:"release"`
			State   string `json:"state"`
		} `json:"firmware"`
		Hardware string `json:"hardware"`
	}
	var d device
	eventuallyFunc(t, func() string { return fmt.Sprintf("%s runs release %d: %+v", name, number, d.Firmware) }, func() bool {
		d = parseJSON[device](t, must(t, f.env, "ecowatt", "device", "show", name, "--json"))
		return d.Firmware != nil && d.Firmware.Release == number && d.Firmware.State != "trial"
	})
}

// steps are what the cloud's log has of the updates of a device, from its nth record
// on, and how many there are.
func (f *fleet) steps(t *testing.T, name string, from int) (steps []string, n int) {
	t.Helper()
	for _, r := range f.audit(t, name) {
		if !strings.HasPrefix(r.Action, "update.") {
			continue
		}
		step := strings.TrimPrefix(r.Action, "update.")
		if code := r.Attrs["code"]; code != "" {
			step += " " + code
		}
		if n++; n > from {
			steps = append(steps, step)
		}
	}
	return steps, n
}

// TestUpdates: releases reach real gateways through a rollout. A good one stays, and
// each that is bad in its own way is given up by the gateway itself, stops its
// rollout, and leaves a gateway that goes on with what it ran.
//
// Attacks: F5, F16
func TestUpdates(t *testing.T) {
	t.Parallel()
	m, err := buildImages()
	if err != nil {
		t.Fatal(err)
	}
	f := newUpdatable(t, 3)

	// Wrong hardware: nobody is told of it.
	f.release(t, m.crashes, "wrong", 1, "--hardware", "gw-9")
	if r := run(t, f.env, "ecowatt", "rollout", "create", "wrong"); r.code == 0 || !strings.Contains(r.stderr, "hardware: 3") {
		t.Errorf("for other hardware: exit code %d: %s", r.code, r.stderr)
	}

	// A good one, as a delta, in two stages.
	f.release(t, m.good, "9.0.0", 2, "--hardware", "gw-1", "--base", filepath.Join(bin, "ecowatt-agent"))
	said := must(t, f.env, "ecowatt", "rollout", "create", "9.0.0", "--stage", "1", "--stage", "100%", "--soak", "1s", "--watch")
	wantLines(t, said, `^3 of 3 devices healthy$`, 1)
	wantLines(t, said, `^done since `, 1)
	wantLines(t, said, `^roof-\d +[12]  healthy `, 3)
	good := []string{"due", "offered", "downloading", "downloaded", "verified", "switching", "trial", "confirmed", "healthy"}
	told := map[string]int{}
	for _, name := range f.roofs {
		f.runs(t, name, 2)
		var steps []string
		steps, told[name] = f.steps(t, name, 0)
		if diff := cmp.Diff(good, slices.Compact(steps)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	// Three that are bad, each on a gateway of its own.
	for i, x := range []struct{ image, version, reason, words string }{
		{m.crashes, "crashes", "exited", "there is no sun today"},
		{m.deaf, "deaf", "not_confirmed", ""},
		{m.sick, "sick", "unhealthy", "the inverter inv1 does not answer, it did before"},
	} {
		f.release(t, x.image, x.version, 3+i, "--hardware", "gw-1")
		must(t, f.env, "ecowatt", "rollout", "create", x.version, "--device", f.roofs[i], "--stage", "1", "--soak", "1s")
	}
	for i, x := range []struct{ version, reason, words string }{
		{"crashes", "exited", "there is no sun today"},
		{"deaf", "not_confirmed", ""},
		{"sick", "unhealthy", "the inverter inv1 does not answer, it did before"},
	} {
		name, id := f.roofs[i], f.rolloutOf(t, x.version)
		r := run(t, f.env, "ecowatt", "rollout", "show", id, "--watch")
		if r.code != 1 {
			t.Errorf("%s: exit code %d", x.version, r.code)
		}
		wantLines(t, r.stdout, `^stopped since .*failed`, 1)
		wantLines(t, r.stdout, `^`+name+` +1  rolled_back .* `+x.reason+`: .*`+x.words, 1)
		steps, n := f.steps(t, name, told[name])
		told[name] = n
		if diff := cmp.Diff(slices.Concat(good[:6], []string{"rolled_back " + x.reason}), withoutTrial(slices.Compact(steps))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", x.version, diff)
		}
		f.runs(t, name, 2)
		stored := f.stored(t, name)
		eventually(t, name+" goes on", func() bool { return f.stored(t, name) > stored })
	}
	a, err := send(t.Context(), f.cloudAddr, http.MethodGet, "/metrics", nil, f.authorization(t))
	if want := "\necowatt_rollouts{state=\"stopped\"} 3\n"; err != nil || !strings.Contains(string(a.body), want) {
		t.Errorf("/metrics: %d %v: it lacks %q", a.status, err, want)
	}
	f.goesBack(t)
}

// goesBack takes a later release back by one that is earlier, which needs a signed
// statement.
func (f *fleet) goesBack(t *testing.T) {
	t.Helper()
	f.release(t, filepath.Join(bin, "ecowatt-agent"), "first", 1, "--hardware", "gw-1")
	if r := run(t, f.env, "ecowatt", "rollout", "create", "first", "--device", "roof-1"); r.code == 0 || !strings.Contains(r.stderr, "newer: 1") {
		t.Errorf("back without a statement: exit code %d: %s", r.code, r.stderr)
	}
	statement := filepath.Join(f.dir, "back")
	must(t, nil, "ecowatt", "firmware", "downgrade", "--from", "2", "--to", "1", "--device", "roof-1", "--out", statement, "--key", f.keys("release-1.key"), f.phrase())
	must(t, f.env, "ecowatt", "rollout", "create", "first", "--device", "roof-1", "--downgrade", statement, "--soak", "1s", "--watch")
	f.runs(t, "roof-1", 1)
}

func (f *fleet) rolloutOf(t *testing.T, version string) string {
	t.Helper()
	match := regexp.MustCompile(`(?m)  ` + version + ` .* ([0-9a-f]{32})$`).FindStringSubmatch(must(t, f.env, "ecowatt", "rollout", "list"))
	if match == nil {
		t.Fatalf("there is no rollout of %s", version)
	}
	return match[1]
}

// withoutTrial leaves out that an image is on trial: one that never reaches the cloud
// does not say so.
func withoutTrial(steps []string) []string {
	return slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return s == "trial" })
}

// TestUpdatesRefused: gateways refuse what is not signed for them, and what is not for
// their board, though the cloud offers it; a later rollout of the same is refused, too.
// What a key has signed that a later root of trust names they take, for the root comes
// with the offer.
//
// Attacks: F1, F4
func TestUpdatesRefused(t *testing.T) {
	t.Parallel()
	m, err := buildImages()
	if err != nil {
		t.Fatal(err)
	}
	f := newUpdatable(t, 2)
	f.foreignRoof(t, "roof-3", 18)
	f.release(t, m.good, "9.0.0", 2, "--hardware", "gw-1")
	rollOut := func(version string, roofs ...string) result {
		t.Helper()
		args := []string{"rollout", "create", version, "--stage", "100%", "--max-failed", "100%", "--soak", "1s", "--watch"}
		for _, name := range roofs {
			args = append(args, "--device", name)
		}
		return run(t, f.env, "ecowatt", args...)
	}

	// The board is another one than the cloud has heard of.
	f.launchers["roof-1"].stop(t)
	f.board(t, "roof-1", "gw-2")
	watched := make(chan result, 1)
	go func() { watched <- rollOut("9.0.0", "roof-1", "roof-3") }()
	eventually(t, "the update of roof-1 is due", func() bool {
		steps, _ := f.steps(t, "roof-1", 0)
		return slices.Contains(steps, "due")
	})
	f.startUpdatable(t, "roof-1", "1s", "15s")
	r := <-watched
	wantLines(t, r.stdout, `^roof-1 +1  failed .* FW_WRONG_HARDWARE: `, 1)
	wantLines(t, r.stdout, `^roof-3 +1  failed .* FW_BAD_SIGNATURE: `, 1)
	for name, code := range map[string]string{"roof-1": "FW_WRONG_HARDWARE", "roof-3": "FW_BAD_SIGNATURE"} {
		wantLines(t, must(t, f.env, "ecowatt", "log", "--security", "--device", name, "--last", "0"), `update\.failed .* reason=`+code, 1)
		f.runs(t, name, 0)
	}
	if again := rollOut("9.0.0", "roof-3"); r.code != 1 || again.code != 1 || !strings.Contains(again.stdout, "FW_BAD_SIGNATURE: ") {
		t.Errorf("exit codes %d, and once more %d: %s", r.code, again.code, again.stdout)
	}

	// The key is one of a root of trust that came after the device.
	must(t, nil, "ecowatt", "firmware", "keygen", f.keys("release-2"), f.phrase())
	must(t, nil, "ecowatt", "firmware", "root", "rotate", f.keys("firmware-root.1"), "--add-release", f.keys("release-2.pub"), "--key", f.keys("root-1.key"), f.phrase())
	must(t, f.env, "ecowatt", "firmware", "root", "push", f.keys("firmware-root.2"))
	f.releaseBy(t, "release-2", m.good, "9.0.1", 3, "--hardware", "gw-1")
	if r := rollOut("9.0.1", "roof-2"); r.code != 0 {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	f.runs(t, "roof-2", 3)
}

// foreignRoof is a gateway that trusts keys of somebody else.
func (f *fleet) foreignRoof(t *testing.T, name string, unit int) {
	t.Helper()
	foreign := filepath.Join(f.dir, "foreign")
	f.newRoot(t, foreign)
	root, err := os.ReadFile(filepath.Join(foreign, "firmware-root.1"))
	if err != nil {
		t.Fatal(err)
	}
	file := f.enrolment(t, name)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	theirs := fmt.Appendf(nil, `"firmware_root":"%s"`, base64.StdEncoding.EncodeToString(root))
	writeFile(t, file, string(regexp.MustCompile(`"firmware_root": *"[^"]+"`).ReplaceAllLiteral(text, theirs)))
	f.installRoof(t, name, unit, file)
	f.board(t, name, "gw-1")
	f.startUpdatable(t, name, "1s", "15s")
	f.runs(t, name, 0)
}

// TestUpdateInterrupted: a file that is damaged in the cloud, and agent, launcher and
// cloud killed while it is fetched: the gateway runs on, names what is wrong, and
// goes on once the file is whole again. All are killed once more while the image is on
// trial, which goes on with a start less each time, and ends on the release.
//
// Attacks: F7, F10
func TestUpdateInterrupted(t *testing.T) {
	t.Parallel()
	m, err := buildImages()
	if err != nil {
		t.Fatal(err)
	}
	f := newUpdatable(t, 1)
	f.release(t, m.good, "9.0.0", 2, "--hardware", "gw-1")
	file, whole := f.artifact(t)
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 1
	writeFile(t, file, string(damaged))
	must(t, f.env, "ecowatt", "rollout", "create", "9.0.0", "--stage", "1", "--soak", "1s")
	eventually(t, "the gateway says what is wrong", func() bool {
		steps, _ := f.steps(t, "roof-1", 0)
		return slices.Contains(steps, "downloading FW_BAD_CHUNK")
	})
	for range 3 {
		f.cloud.kill(t)
		f.launchers["roof-1"].kill(t)
		f.startCloud(t)
		f.startUpdatable(t, "roof-1", "1h", "1h")
		n := f.stored(t, "roof-1")
		eventually(t, "samples go up", func() bool { return f.stored(t, "roof-1") > n })
	}
	f.runs(t, "roof-1", 0)
	writeFile(t, file, string(whole))
	f.killOnTrial(t, "roof-1")
	f.runs(t, "roof-1", 2)
	if r := run(t, f.env, "ecowatt", "rollout", "show", f.rolloutOf(t, "9.0.0"), "--watch"); r.code != 0 {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
}

// killOnTrial waits for an image that is on trial, which is not confirmed before the
// launcher is another, and kills the agent, and then launcher and cloud.
func (f *fleet) killOnTrial(t *testing.T, name string) {
	t.Helper()
	onTrial := func(starts int) {
		t.Helper()
		var s agentStatus
		eventuallyFunc(t, func() string { return fmt.Sprintf("%s is on trial with %d starts left: %+v", name, starts, s) }, func() bool {
			record, err := boot.ReadRecord(disk.OS(f.roof(name)))
			if err != nil || record.State != boot.Trial || record.Starts != starts {
				return false
			}
			s, _ = f.status(t, name)
			return strings.HasPrefix(s.Version, "9.")
		})
	}
	onTrial(boot.TrialStarts - 1)
	f.killRoof(t, name, false)
	onTrial(boot.TrialStarts - 2)
	f.cloud.kill(t)
	f.launchers[name].kill(t)
	f.startCloud(t)
	f.startUpdatable(t, name, "1s", "1h")
}

// artifact is the largest file of the cloud's releases.
func (f *fleet) artifact(t *testing.T) (name string, data []byte) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(f.dir, "cloud", "artifacts", "*", "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("%q %v", all, err)
	}
	for _, x := range all {
		b, err := os.ReadFile(x)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > len(data) {
			name, data = x, b
		}
	}
	return name, data
}
