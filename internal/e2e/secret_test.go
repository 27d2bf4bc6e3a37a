package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ecowatt/cloud/keyring"
	"ecowatt/key"
	"ecowatt/wire"
)

// secrets are what nobody may see, by what they are.
type secrets map[string][]byte

// needles are the ways in which a piece of a secret could be written: as it is,
// in hexadecimal, in the two alphabets of base64 at each of the three places at
// which it may begin, and as fmt prints bytes. A run of 16 bytes of a secret
// holds at least one of them.
func needles(secret []byte) (all [][]byte) {
	for i := 0; i+8 <= len(secret); i += 8 {
		part := secret[i : i+8]
		all = append(all, part, []byte(hex.EncodeToString(part)), []byte(strings.ToUpper(hex.EncodeToString(part))),
			[]byte(strings.Trim(fmt.Sprintf("%d", part), "[]")), []byte(strings.ReplaceAll(strings.Trim(fmt.Sprintf("%d", part), "[]"), " ", ",")))
		for before := range 3 {
			text := base64.StdEncoding.EncodeToString(append(make([]byte, before), part...))
			// The characters at both ends also hold bits of the neighbours.
			text = strings.TrimRight(text, "=")[(before*8+5)/6 : (before+len(part))*8/6]
			all = append(all, []byte(text), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text)))
		}
	}
	return all
}

// found returns what of the secrets is in data.
func (s secrets) found(data []byte) (names []string) {
	for name, secret := range s {
		if slices.ContainsFunc(needles(secret), func(n []byte) bool { return bytes.Contains(data, n) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestNeedles plants a secret in every way, and expects it to be found.
func TestNeedles(t *testing.T) {
	secret := []byte("\x8f\x01\xfe\xffhold on to what you know!\xfb\xef\xbe")
	s := secrets{"it": secret}
	if got := s.found(bytes.Repeat([]byte("nothing to see here "), 100)); len(got) != 0 {
		t.Errorf("found where it is not")
	}
	for before := range 9 {
		for _, part := range [][]byte{secret, secret[3:20], secret[:16], secret[len(secret)-16:]} {
			around := slices.Concat(bytes.Repeat([]byte("<"), before), part, []byte(">>>"))
			quoted, err := json.Marshal(around)
			if err != nil {
				t.Fatal(err)
			}
			for how, text := range map[string]string{
				"as it is": string(around), "%x": fmt.Sprintf("%x", around), "%X": fmt.Sprintf("%X", around), "%d": fmt.Sprintf("%d", around),
				"JSON": string(quoted), "base64url": base64.RawURLEncoding.EncodeToString(around), "%v": fmt.Sprintf("%v", around),
			} {
				if got := s.found([]byte(text)); len(got) != 1 {
					t.Errorf("%d bytes after %d others, %s: not found in %q", len(part), before, how, text)
				}
			}
		}
	}
}

// learn adds what the database and the key ring of a cloud hold now: the keys of
// devices and handshakes, of sessions, of the ring, and the token.
func (s secrets) learn(t *testing.T, data string) {
	t.Helper()
	ring, err := keyring.Open(filepath.Join(data, "keyring.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			ID  string
			Key []byte
		}
	}
	text, err := os.ReadFile(filepath.Join(data, "keyring.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Keys) == 0 {
		t.Fatalf("%d keys in the ring, %v", len(file.Keys), err)
	}
	for _, k := range file.Keys {
		s["key "+k.ID+" of the ring"] = k.Key
	}
	token, err := os.ReadFile(filepath.Join(data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	s["token"] = bytes.TrimPrefix(bytes.TrimSpace(token), []byte("ew_"))

	db, err := sql.Open("sqlite3", "file:"+filepath.Join(data, "ecowatt.db")+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	each(t, db, `SELECT d.name, k.psk_id, k.epoch, k.kek, k.wrapped FROM device_key k JOIN device d ON d.id = k.device WHERE k.wrapped IS NOT NULL`, func(scan func(...any) error) error {
		var name, kek string
		var id, wrapped []byte
		var epoch uint32
		if err := scan(&name, &id, &epoch, &kek, &wrapped); err != nil {
			return err
		}
		k, err := ring.UnwrapDevice(kek, wrapped, name, key.ID(id), key.Epoch(epoch))
		if err != nil {
			return err
		}
		device, psk := k.Secret(), k.NoisePSK(wire.Suite1)
		shaking := psk.Secret()
		s[fmt.Sprintf("key of %s, epoch %d", name, epoch)] = device[:]
		s[fmt.Sprintf("handshake key of %s, epoch %d", name, epoch)] = shaking[:]
		return nil
	})
	each(t, db, `SELECT d.name, x.sid, x.kek, x.wrapped FROM session x JOIN device d ON d.id = x.device`, func(scan func(...any) error) error {
		var name, kek string
		var sid, wrapped []byte
		if err := scan(&name, &sid, &kek, &wrapped); err != nil {
			return err
		}
		k, err := ring.UnwrapSession(kek, wrapped, name, [16]byte(sid))
		if err != nil {
			return err
		}
		keys := k.Secret()
		s[fmt.Sprintf("keys of session %x of %s", sid[:4], name)] = keys[:]
		return nil
	})
}

// each calls visit with every row of a query.
func each(t *testing.T, db *sql.DB, query string, visit func(scan func(...any) error) error) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := visit(rows.Scan); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// dump returns every value of every table, each followed by a newline.
func dump(t *testing.T, path string) (all []byte) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var tables []string
	each(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table'`, func(scan func(...any) error) error {
		tables = append(tables, "")
		return scan(&tables[len(tables)-1])
	})
	for _, table := range tables {
		rows, err := db.QueryContext(t.Context(), `SELECT * FROM "`+table+`"`)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, values(t, rows)...)
	}
	if len(tables) < 5 || len(all) < 1000 {
		t.Fatalf("%d bytes of %d tables", len(all), len(tables))
	}
	return all
}

// values returns every value of rows, each followed by a newline, and closes them.
func values(t *testing.T, rows *sql.Rows) (all []byte) {
	t.Helper()
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	row := make([]any, len(columns))
	for i := range row {
		row[i] = new(sql.RawBytes)
	}
	for rows.Next() {
		if err := rows.Scan(row...); err != nil {
			t.Fatal(err)
		}
		for _, v := range row {
			all = append(append(all, *v.(*sql.RawBytes)...), '\n')
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// areThere checks that the search finds what is there: in the files where they
// belong, and in the answers to device add, the keys of the ring and of devices
// and the token; and that enough is known to be searched for.
func (s secrets) areThere(t *testing.T, kept []byte) {
	t.Helper()
	positive := s.found(kept)
	for _, want := range []string{"token", "key of roof-1, epoch 1", "key of roof-1, epoch 2", "key of roof-2, epoch 1"} {
		if !slices.Contains(positive, want) {
			t.Errorf("the search does not find the %s where it is", want)
		}
	}
	if !slices.ContainsFunc(positive, func(s string) bool { return strings.HasSuffix(s, "of the ring") }) {
		t.Error("the search does not find the key of the ring where it is")
	}
	count := func(prefix string) (n int) {
		for name := range s {
			if strings.HasPrefix(name, prefix) {
				n++
			}
		}
		return n
	}
	if count("keys of session") < 4 || count("handshake key") < 2 {
		t.Errorf("only these secrets are known: %v", slices.Sorted(maps.Keys(s)))
	}
}

// ears collects everything that is said while a fleet runs, by who said it.
type ears map[string][]byte

func (e ears) hear(who string, said ...[]byte) {
	e[who] = append(e[who], bytes.Join(said, []byte("\n"))...)
}

// runs runs a program, as run does, and listens.
func (e ears) runs(t *testing.T, env []string, program string, args ...string) result {
	t.Helper()
	r := run(t, env, program, args...)
	e.hear("what "+program+" "+strings.Join(args, " ")+" prints", []byte(r.stdout), []byte(r.stderr))
	return r
}

// keeps are the files in which a secret belongs.
func keeps(path string) bool {
	name := filepath.Base(path)
	return path == "cloud/keyring.json" || path == "cloud/token" || strings.HasPrefix(name, "psk.") && filepath.Base(filepath.Dir(path)) == "keys" || strings.HasSuffix(name, ".enrol.json")
}

// files adds every file below a folder but those in which a secret belongs,
// which are returned.
func (e ears) files(t *testing.T, dir string) (kept []byte) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		if keeps(path) {
			kept = append(kept, data...)
		} else {
			e.hear("the file "+path, data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// answers adds every answer that passed a line but those to the adding of a
// device, which bring its enrolment file and are returned.
func (e ears) answers(l *line) (enrolled []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.answers {
		if a.method == http.MethodPost && a.path == "/api/v1/devices" && a.status == http.StatusCreated {
			enrolled = append(enrolled, a.text...)
		} else {
			e.hear("the answers to "+a.method+" "+a.path, a.text)
		}
	}
	return enrolled
}

// TestNothingShowsSecrets runs a fleet for a while: devices are enrolled, talk,
// and are killed, operators look at everything in every form, strangers and
// broken files cause errors. Then everything that was printed, answered, counted
// or stored is searched for keys and tokens.
//
// Attacks: A4
func TestNothingShowsSecrets(t *testing.T) {
	t.Parallel()
	f := &fleet{dir: t.TempDir(), simAddr: freeAddress(t), cloudAddr: freeAddress(t), launchers: map[string]*process{}}
	data := filepath.Join(f.dir, "cloud")
	l := newLine(t, f.cloudAddr)
	f.env = []string{"ECOWATT_URL=http://" + l.address, "ECOWATT_TOKEN_FILE=" + filepath.Join(data, "token")}
	f.startSim(t, 2)
	f.loud = true
	f.startCloud(t)
	heard, known := ears{}, secrets{}
	for i, name := range []string{"roof-1", "roof-2"} {
		f.addRoof(t, name, 17+i)
		f.through(t, l, name)
	}
	for _, name := range f.roofs {
		f.startRoof(t, name)
	}
	eventually(t, "both devices talk", func() bool { return len(l.recorded(exchange)) >= 4 })
	known.learn(t, data)
	clouds := []*process{f.cloud}

	f.askEverything(t, heard)
	f.provoke(t, heard, l)
	f.cloud.kill(t)
	f.startCloud(t)
	clouds = append(clouds, f.cloud)
	for _, name := range f.roofs {
		f.killRoof(t, name, false)
	}
	n := len(l.recorded(exchange))
	eventually(t, "both devices talk again", func() bool { return len(l.recorded(exchange)) >= n+4 })
	known.learn(t, data)
	f.changeKeys(t, heard, known)
	f.askEverything(t, heard)
	heard.hear("the status of roof-1", []byte(must(t, nil, "ecowatt-agent", "status", "--dir", f.roof("roof-1"), "--json")))
	heard.files(t, f.dir) // while everything runs: the write-ahead log is there

	f.sim.stop(t)
	for _, name := range f.roofs {
		f.drained(t, name)
		f.launchers[name].stop(t)
		heard.hear("what the launcher and the agent of "+name+" say", f.launchers[name].said())
	}
	f.cloud.stop(t)
	for _, c := range clouds {
		heard.hear("what the cloud says", c.said())
	}
	heard.hear("a dump of the database", dump(t, filepath.Join(data, "ecowatt.db")))
	kept := heard.files(t, f.dir)
	heard.hear("what the line saw going to the cloud", slices.Concat(slices.Concat(l.recorded(session)...), slices.Concat(l.recorded(exchange)...)))
	enrolled := heard.answers(l)

	known.areThere(t, slices.Concat(kept, enrolled))
	for who, said := range heard {
		if got := known.found(said); len(got) > 0 {
			t.Errorf("%s: %s", who, strings.Join(got, ", "))
		}
	}
	total := 0
	for _, said := range heard {
		total += len(said)
	}
	t.Logf("%d secrets in %d bytes of %d kinds", len(known), total, len(heard))
}

// changeKeys gives a device its next key and the cloud another key ring, and
// backs the database up, all of which handles keys.
func (f *fleet) changeKeys(t *testing.T, heard ears, known secrets) {
	t.Helper()
	data := filepath.Join(f.dir, "cloud")
	does := func(args ...string) string {
		t.Helper()
		r := heard.runs(t, f.env, "ecowatt", args...)
		if r.code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
		return r.stdout
	}
	does("device", "rotate-key", "roof-1", "--json")
	known.learn(t, data) // the next key, or that it is in use already
	eventually(t, "roof-1 has its next key", func() bool {
		return parseJSON[struct{ Epoch int }](t, does("device", "show", "roof-1", "--json")).Epoch == 2
	})
	known.learn(t, data)
	added := parseJSON[struct{ ID string }](t, does("keyring", "add", "--json"))
	known.learn(t, data)
	does("keyring", "primary", added.ID)
	does("keyring", "rewrap")
	known.learn(t, data)
	does("keyring", "list", "--json")
	does("backup", "--data", data, "--out", filepath.Join(f.dir, "ecowatt.backup"))
}

// said is what a process has printed so far.
func (p *process) said() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []byte(strings.Join(p.lines, "\n"))
}

// askEverything looks at everything there is, by the command line and by REST.
func (f *fleet) askEverything(t *testing.T, heard ears) {
	t.Helper()
	for _, args := range [][]string{
		{"device", "list"},
		{"device", "show", "roof-1"},
		{"device", "disable", "roof-2"},
		{"device", "enable", "roof-2"},
		{"telemetry", "show", "roof-1", "--since", "1h"},
		{"log"},
	} {
		for _, more := range [][]string{nil, {"--json"}} {
			if r := heard.runs(t, f.env, "ecowatt", append(slices.Clone(args), more...)...); r.code != 0 {
				t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
			}
		}
	}
	heard.runs(t, f.env, "ecowatt", "telemetry", "export", "roof-1", "--since", "1h")
	for _, path := range []string{
		"/metrics", "/healthz", "/readyz", "/api/openapi.json", "/api/docs", "/api/v1/devices", "/api/v1/devices/roof-1",
		"/api/v1/devices/roof-1/telemetry?from=0", "/api/v1/devices/roof-1/telemetry.csv?from=0", "/api/v1/devices/roof-1/events", "/api/v1/audit",
	} {
		a, err := send(context.WithoutCancel(t.Context()), strings.TrimPrefix(f.env[0], "ECOWATT_URL=http://"), http.MethodGet, path, nil, f.authorization(t))
		if err != nil || a.status != http.StatusOK {
			t.Errorf("GET %s: %d, %v", path, a.status, err)
		}
	}
}

// authorization is the header of who has the token.
func (f *fleet) authorization(t *testing.T) http.Header {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(f.dir, "cloud", "token"))
	if err != nil {
		t.Fatal(err)
	}
	return http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(token))}, "Content-Type": {"application/json"}}
}

// provoke causes errors of every kind, on both sides, with real keys at hand:
// that is when programs print what they should not.
func (f *fleet) provoke(t *testing.T, heard ears, l *line) {
	t.Helper()
	fails := func(env []string, program string, args ...string) {
		t.Helper()
		if r := heard.runs(t, env, program, args...); r.code <= 0 {
			t.Errorf("%s %v does not fail", program, args)
		}
	}
	// Messages: changed, repeated, to the wrong path, half.
	for _, path := range []string{session, exchange} {
		for _, body := range l.recorded(path) {
			for _, at := range []int{2, 8, 24, 40, len(body) - 1} {
				changed := bytes.Clone(body)
				changed[at] ^= 0x41
				l.post(t, path, changed)
				l.post(t, path, body[:at])
			}
			l.post(t, path, body)
			l.post(t, session, body)
		}
	}
	// REST and the command line, with the real token.
	env := func(name string) []string { return append(slices.Clone(f.env), "ECOWATT_TOKEN_FILE="+name) }
	for _, body := range []string{`{"id":"roof-1"}`, `{"id":"No Good"}`, `{`, `{"id":"x","key":"AAAA"}`} {
		if a, err := send(t.Context(), l.address, http.MethodPost, "/api/v1/devices", []byte(body), f.authorization(t)); err != nil || a.status < 400 {
			t.Errorf("%s: %d, %v", body, a.status, err)
		}
	}
	dir := t.TempDir()
	token, err := os.ReadFile(filepath.Join(f.dir, "cloud", "token"))
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "token")
	writeFile(t, half, string(token[:len(token)-5]))
	fails(env(half), "ecowatt", "device", "list")
	writeFile(t, half, string(token)+string(token))
	fails(env(half), "ecowatt", "device", "list")
	fails(f.env, "ecowatt", "device", "add", "roof-1", "--out", filepath.Join(dir, "again.json"))
	// Files with keys that are broken in every place, at agents and clouds.
	for _, name := range []string{"keys/psk.a", "identity.json"} {
		f.damaged(t, f.roof("roof-1"), name, func(copied string) { fails(nil, "ecowatt-agent", "run", "--dir", copied) })
	}
	f.damaged(t, filepath.Join(f.dir, "cloud"), "keyring.json", func(copied string) {
		fails(nil, "ecowatt", "serve", "--data", copied, "--listen", "127.0.0.1:0", "--log-level", "debug")
	})
	// An enrolment file that is not one any more.
	spare := f.enrolment(t, "spare")
	text, err := os.ReadFile(spare)
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range []string{string(text[:len(text)-20]), regexp.MustCompile(`"key":\s*"`).ReplaceAllString(string(text), `"key":"!`), strings.Replace(string(text), `"epoch"`, `"key"`, 1), string(text) + string(text)} {
		file := filepath.Join(dir, fmt.Sprintf("%d.enrol.json", i))
		writeFile(t, file, bad)
		fails(nil, "ecowatt-agent", "enroll", file, "--dir", filepath.Join(dir, "new"))
	}
	fails(nil, "ecowatt-agent", "enroll", spare, "--dir", f.roof("roof-1"))
}

// damaged calls try with copies of a folder in which one file is cut, changed or
// open to others.
func (f *fleet) damaged(t *testing.T, dir, name string, try func(copied string)) {
	t.Helper()
	whole, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[3] ^= 0x10
	for i, bad := range [][]byte{whole[:len(whole)/2], flipped, append(bytes.Clone(whole), whole...), whole} {
		if i == 3 && !keeps(name) && !keeps("cloud/"+name) {
			continue // a file without a secret may be open to others
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.Mkdir(copied, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"agent.yaml", "identity.json", "keys/psk.a", "ecowatt.db", "keyring.json"} {
			content, err := os.ReadFile(filepath.Join(dir, part))
			if err != nil {
				continue // of the other kind of folder
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(copied, part)), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(copied, part), string(content))
		}
		file := filepath.Join(copied, name)
		writeFile(t, file, string(bad))
		if i == 3 {
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		try(copied)
	}
}
