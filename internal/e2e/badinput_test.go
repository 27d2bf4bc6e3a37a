package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nonsense is what the programs are given: files and folders that are wrong in
// one way each.
type nonsense struct {
	*fleet
	dir                      string
	enrolment                string // good, and not used
	wide, foreign, cut       string // enrolment files
	badProfile, badSetting   string // gateways
	badRange, wideKey        string
	newerCloud, foreignCloud string // data folders
	unenrolled, newGateway   string
}

const goodSettings = "inverters:\n  - {name: inv1, connect: \"modbus-tcp://127.0.0.1:1\", unit: 17, profile: ecowatt-sim}\n"

func newNonsense(t *testing.T) *nonsense {
	t.Helper()
	n := &nonsense{fleet: newFleet(t, 1), dir: t.TempDir(), unenrolled: t.TempDir()}
	n.newGateway = filepath.Join(n.dir, "new")
	n.enrolment = n.fleet.enrolment(t, "spare")
	text, err := os.ReadFile(n.enrolment)
	if err != nil {
		t.Fatal(err)
	}
	n.wide = n.file(t, "wide.json", string(text))
	n.chmod(t, n.wide, 0o644)
	n.foreign = n.file(t, "foreign.json", `{"hello":"world"}`)
	n.cut = n.file(t, "cut.json", string(text[:len(text)/2]))
	n.badProfile = n.gateway(t, "bad-profile", strings.Replace(goodSettings, "ecowatt-sim", "acme", 1))
	n.badSetting = n.gateway(t, "bad-setting", goodSettings+"sampling: 3\n")
	n.badRange = n.gateway(t, "bad-range", goodSettings+"sampling_interval: 0.1\n")
	n.wideKey = n.gateway(t, "wide-key", goodSettings)
	n.chmod(t, filepath.Join(n.wideKey, "keys", "psk.a"), 0o644)
	n.newerCloud = n.newer(t)
	n.foreignCloud = filepath.Join(n.dir, "foreign-cloud")
	if err := os.Mkdir(n.foreignCloud, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(n.foreignCloud, "ecowatt.db"), strings.Repeat("not a database at all\n", 100))
	n.startRoof(t, "roof-1")
	eventually(t, "the agent runs", func() bool { _, ok := n.status(t, "roof-1"); return ok })
	return n
}

func (n *nonsense) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	writeFile(t, path, text)
	return path
}

func (n *nonsense) chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// gateway enrols a gateway and gives it settings.
func (n *nonsense) gateway(t *testing.T, name, settings string) string {
	t.Helper()
	dir := filepath.Join(n.dir, name)
	must(t, nil, "ecowatt-agent", "enroll", n.fleet.enrolment(t, name), "--dir", dir)
	writeFile(t, filepath.Join(dir, "agent.yaml"), settings)
	return dir
}

// newer makes a data folder whose database is of a schema version that nobody
// knows yet.
func (n *nonsense) newer(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(n.dir, "newer-cloud")
	p := start(t, "ecowatt", "serve", "--data", dir, "--listen", "127.0.0.1:0")
	p.line(t, 0, `listening`)
	p.stop(t)
	const userVersion = 60 // offset in the header: https://www.sqlite.org/fileformat2.html, section 1.3
	db, err := os.OpenFile(filepath.Join(dir, "ecowatt.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.WriteAt([]byte{0, 0, 0, 99}, userVersion); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Every program answers nonsense with one clear line and the right exit code,
// and changes nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	n := newNonsense(t)
	database, err := os.ReadFile(filepath.Join(n.newerCloud, "ecowatt.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range n.cases() {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, n.env, c.args[0], c.args[1:]...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d\n%s%s", r.code, c.code, r.stdout, r.stderr)
			}
			if r.stdout != "" {
				t.Errorf("stdout is for answers, it says %q", r.stdout)
			}
			if n := strings.Count(r.stderr, "\n"); n < 1 || n > 3 {
				t.Errorf("%d lines, want one, and perhaps a hint:\n%s", n, r.stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("does not name %q:\n%s", want, r.stderr)
				}
			}
		})
	}
	if _, err := os.Stat(n.enrolment); err != nil {
		t.Errorf("a refused enrolment file must stay: %v", err)
	}
	if names, err := os.ReadDir(filepath.Join(n.newGateway, "keys")); err == nil && len(names) > 0 {
		t.Errorf("a refused enrolment left keys: %v", names)
	}
	if after, err := os.ReadFile(filepath.Join(n.newerCloud, "ecowatt.db")); err != nil || !bytes.Equal(after, database) {
		t.Errorf("a database of a newer version was changed (%v)", err)
	}
}

type badCase struct {
	name string
	args []string
	code int
	want []string // all on stderr
}

func (n *nonsense) cases() []badCase {
	roof := n.roof("roof-1")
	return []badCase{
		{"agent: no command", []string{"ecowatt-agent"}, 2, []string{"command"}},
		{"agent: unknown command", []string{"ecowatt-agent", "fly"}, 2, []string{"fly"}},
		{"agent: unknown flag", []string{"ecowatt-agent", "run", "--fast"}, 2, []string{"fast"}},
		{"agent: no folder", []string{"ecowatt-agent", "run"}, 2, []string{"--dir"}},
		{"agent: not enrolled", []string{"ecowatt-agent", "run", "--dir", n.unenrolled}, 1, []string{"enrol"}},
		{"agent: folder in use", []string{"ecowatt-agent", "run", "--dir", roof}, 1, []string{"in use", roof}},
		{"agent: unknown profile", []string{"ecowatt-agent", "run", "--dir", n.badProfile}, 1, []string{"agent.yaml", "acme", "ecowatt-sim"}},
		{"agent: unknown setting", []string{"ecowatt-agent", "run", "--dir", n.badSetting}, 1, []string{"agent.yaml", "sampling"}},
		{"agent: setting out of range", []string{"ecowatt-agent", "run", "--dir", n.badRange}, 1, []string{"agent.yaml", "sampling_interval", "0.1"}},
		{"agent: key file too open", []string{"ecowatt-agent", "run", "--dir", n.wideKey}, 1, []string{"psk.a", "0600"}},
		{"agent: status of nothing", []string{"ecowatt-agent", "status", "--dir", n.wideKey}, 1, []string{"no agent is running"}},
		{"enrol: no file", []string{"ecowatt-agent", "enroll", filepath.Join(n.dir, "absent"), "--dir", n.newGateway}, 1, []string{"absent"}},
		{"enrol: too open", []string{"ecowatt-agent", "enroll", n.wide, "--dir", n.newGateway}, 1, []string{"wide.json", "0600"}},
		{"enrol: foreign", []string{"ecowatt-agent", "enroll", n.foreign, "--dir", n.newGateway}, 1, []string{"foreign.json", "hello"}},
		{"enrol: cut", []string{"ecowatt-agent", "enroll", n.cut, "--dir", n.newGateway}, 1, []string{"cut.json"}},
		{"enrol: another device's folder", []string{"ecowatt-agent", "enroll", n.enrolment, "--dir", n.wideKey}, 1, []string{"wide-key"}},
		{"launcher: no folder", []string{"ecowatt-boot"}, 2, []string{"--dir"}},
		{"launcher: empty slot", []string{"ecowatt-boot", "--dir", n.wideKey}, 1, []string{"slot a"}},
		{"serve: folder in use", []string{"ecowatt", "serve", "--data", filepath.Join(n.fleet.dir, "cloud"), "--listen", "127.0.0.1:0"}, 1, []string{"in use", "cloud"}},
		{"serve: port taken", []string{"ecowatt", "serve", "--data", filepath.Join(n.dir, "cloud2"), "--listen", n.cloudAddr}, 1, []string{n.cloudAddr, "in use"}},
		{"serve: newer database", []string{"ecowatt", "serve", "--data", n.newerCloud, "--listen", "127.0.0.1:0"}, 1, []string{"ecowatt.db", "version 99", "newer"}},
		{"serve: foreign database", []string{"ecowatt", "serve", "--data", n.foreignCloud, "--listen", "127.0.0.1:0"}, 1, []string{"ecowatt.db", "not an EcoWatt database"}},
		{"sim: port taken", []string{"ecowatt", "sim", "--modbus-tcp", n.simAddr}, 1, []string{n.simAddr, "in use"}},
		{"sim: unknown profile", []string{"ecowatt", "sim", "--modbus-tcp", "127.0.0.1:0", "--profile", "acme"}, 1, []string{"acme", "ecowatt-sim"}},
		{"sim: no weather file", []string{"ecowatt", "sim", "--modbus-tcp", "127.0.0.1:0", "--weather", n.foreign}, 1, []string{"foreign.json"}},
		{"probe: nobody there", []string{"ecowatt", "probe", "modbus-tcp://127.0.0.1:1", "--unit", "17", "--profile", "ecowatt-sim"}, 1, []string{"127.0.0.1:1"}},
		{"show: no such device", []string{"ecowatt", "device", "show", "nobody"}, 4, []string{"nobody"}},
		{"add: bad name", []string{"ecowatt", "device", "add", "No Good"}, 2, []string{"No Good"}},
	}
}

// enrolment adds a device and returns its enrolment file.
func (f *fleet) enrolment(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(f.dir, name+".enrol.json")
	must(t, f.env, "ecowatt", "device", "add", name, "--group", "south", "--out", file)
	return file
}
