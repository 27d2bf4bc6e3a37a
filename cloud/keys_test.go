package cloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
	"ecowatt/wire/record"
)

// talker is a device that talks to a running cloud.
type talker struct {
	address string
	id      key.ID
	key     key.Device

	noise.Secrets
	seq wire.Sequence
}

// enrol adds a device.
func (r *running) enrol(name string) (*talker, error) {
	status, body := r.ask(http.MethodPost, "/api/v1/devices", "application/json", `{"id":"`+name+`"}`)
	if status != http.StatusCreated {
		return nil, fmt.Errorf("adding %s: %d %s", name, status, body)
	}
	var added struct {
		Enrolment struct {
			ID  key.ID `json:"psk_id"`
			Key []byte `json:"key"`
		} `json:"enrolment"`
	}
	if err := json.Unmarshal([]byte(body), &added); err != nil {
		return nil, err
	}
	secret, err := key.DeviceFromBytes(added.Enrolment.Key)
	return &talker{address: r.address, id: added.Enrolment.ID, key: secret}, err
}

func (d *talker) post(path string, msg []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+d.address+path, bytes.NewReader(msg))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", wire.ContentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// connect shakes hands, for as long as it is told that the cloud cannot now, as
// devices do.
func (d *talker) connect() error {
	i, hs1, err := noise.Initiate(d.key.NoisePSK(wire.Suite1), d.id, 1, rand.Reader)
	if err != nil {
		return err
	}
	status, answer, err := d.post(wire.PathSession, hs1)
	for tries := 0; status == http.StatusServiceUnavailable && tries < 3; tries++ {
		status, answer, err = d.post(wire.PathSession, hs1)
	}
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("the handshake: %d %x, %w", status, answer, err)
	}
	d.Secrets, _, err = i.Finish(answer)
	d.seq = 0
	return err
}

// exchange makes an exchange, which must succeed.
func (d *talker) exchange() error {
	d.seq++
	body, err := wire.EncodeRequest(wire.Request{At: wire.Instant{Boot: wire.BootID{1}, Mono: int64(d.seq)}})
	if err != nil {
		return err
	}
	msg, mac, err := record.SealRequest(d.Keys, d.SID, d.seq, body)
	if err != nil {
		return err
	}
	status, answer, err := d.post(wire.PathExchange, msg)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("exchange %d: %d %x, %w", d.seq, status, answer, err)
	}
	_, err = record.OpenAnswer(d.Keys, d.SID, d.seq, mac, answer)
	return err
}

// keyringOf asks the API about the key ring.
func keyringOf[T any](r *running, method, path, body string, want int) (out T) {
	r.t.Helper()
	status, answer := r.ask(method, "/api/v1/keyring"+path, "application/json", body)
	if status != want {
		r.t.Fatalf("%s /keyring%s: %d %s, want %d", method, path, status, answer, want)
	}
	if err := json.Unmarshal([]byte(answer), &out); err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *running) keys() []api.KeyringKey {
	r.t.Helper()
	return keyringOf[api.KeyringList](r, http.MethodGet, "", "", http.StatusOK).Keys
}

// rewrap wraps everything anew.
func (r *running) rewrap() (sum api.KeyringRewrap) {
	r.t.Helper()
	for after := ""; ; {
		part := keyringOf[api.KeyringRewrap](r, http.MethodPost, "/rewrap?after="+after, "", http.StatusOK)
		sum.Primary = part.Primary
		sum.DeviceKeys += part.DeviceKeys
		sum.Sessions += part.Sessions
		sum.Failed = append(sum.Failed, part.Failed...)
		if after = part.Next; after == "" {
			return sum
		}
	}
}

// TestKeyringRotatedWhileDevicesTalk replaces the key-encryption key several
// times while devices make exchanges without a pause and others are added and
// shake hands. No exchange fails.
//
// Attacks: K15
func TestKeyringRotatedWhileDevicesTalk(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	const devices, rounds = 4, 5
	stop := make(chan struct{})
	var exchanges atomic.Int64
	var wait sync.WaitGroup
	defer func() {
		close(stop)
		wait.Wait()
	}()
	work := func(do func(n int) error) {
		wait.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := do(n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range devices {
		d, err := c.enrol(fmt.Sprintf("d%d", n))
		if err == nil {
			err = d.connect()
		}
		if err != nil {
			t.Fatal(err)
		}
		work(func(int) error {
			exchanges.Add(1)
			return d.exchange()
		})
	}
	add := func(n int) error {
		d, err := c.enrol(fmt.Sprintf("new%d", n))
		if err == nil {
			err = d.connect()
		}
		if err == nil {
			err = d.exchange()
		}
		return err
	}
	added := make(chan struct{}, 1)
	wait.Go(func() { // as many handshakes as one address may begin
		defer close(added)
		for n := range 60 {
			if err := add(n); err != nil {
				t.Error(err)
				return
			}
			select {
			case added <- struct{}{}:
			case <-stop:
				return
			}
		}
	})

	for range rounds {
		before := exchanges.Load()
		primary := c.replaceKEK(func() { <-added })
		keys := c.keys()
		if len(keys) != 1 || keys[0].ID != primary || !keys[0].Primary || keys[0].DeviceKeys < devices || keys[0].Sessions < devices {
			t.Errorf("the ring is %+v, want %s alone, which wraps everything", keys, primary)
		}
		for exchanges.Load() < before+devices && !t.Failed() {
			<-added
		}
	}
}

// replaceKEK replaces the key-encryption key, with a pause between its steps.
// What was on its way under the old key is wrapped anew as well.
func (r *running) replaceKEK(pause func()) (primary string) {
	r.t.Helper()
	old := r.keys()[0]
	fresh := keyringOf[api.KeyringKey](r, http.MethodPost, "/keys", "", http.StatusCreated)
	pause()
	keyringOf[api.KeyringList](r, http.MethodPut, "/primary", `{"id":"`+fresh.ID+`"}`, http.StatusOK)
	pause()
	for {
		if sum := r.rewrap(); sum.Primary != fresh.ID || len(sum.Failed) > 0 {
			r.t.Errorf("wrapped anew: %+v", sum)
		}
		switch status, body := r.ask(http.MethodDelete, "/api/v1/keyring/keys/"+old.ID, "application/json", ""); status {
		case http.StatusOK:
			return fresh.ID
		case http.StatusConflict:
		default:
			r.t.Fatalf("removing the old key: %d %s", status, body)
		}
	}
}

// TestKeyringRotation goes the whole way in a quiet cloud: what each step says,
// what it refuses, what the audit log tells, and that a restart goes on.
//
// Attacks: K15
func TestKeyringRotation(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	d, err := c.enrol("roof-1")
	if err == nil {
		err = errors.Join(d.connect(), d.exchange())
	}
	if err != nil {
		t.Fatal(err)
	}
	first := c.keys()[0]
	if !first.Primary || first.DeviceKeys != 1 || first.Sessions != 1 || time.Since(first.MadeAt) > time.Hour {
		t.Errorf("a new ring holds %+v", first)
	}
	refused := func(method, path, body string, want int, says string) {
		t.Helper()
		before := c.keys()
		status, answer := c.ask(method, "/api/v1/keyring"+path, "application/json", body)
		if status != want || !strings.Contains(answer, says) {
			t.Errorf("%s %s: %d %s, want %d that says %q", method, path, status, answer, want, says)
		}
		if diff := cmp.Diff(before, c.keys()); diff != "" {
			t.Errorf("%s %s changed the ring:\n%s", method, path, diff)
		}
	}
	refused(http.MethodDelete, "/keys/"+first.ID, "", 409, first.ID+" is the primary key")
	refused(http.MethodDelete, "/keys/0011223344556677", "", 404, `no key-encryption key \"0011223344556677\"`)
	refused(http.MethodPut, "/primary", `{"id":"0011223344556677"}`, 404, `no key-encryption key \"0011223344556677\"`)
	refused(http.MethodPost, "/rewrap?after=nonsense", "", 422, "query.after")

	second := keyringOf[api.KeyringKey](c, http.MethodPost, "/keys", "", 201)
	keyringOf[api.KeyringList](c, http.MethodPut, "/primary", `{"id":"`+second.ID+`"}`, 200)
	keyringOf[api.KeyringList](c, http.MethodPut, "/primary", `{"id":"`+second.ID+`"}`, 200)
	refused(http.MethodDelete, "/keys/"+first.ID, "", 409, first.ID+" still wraps keys of devices (1), of sessions (1) and of releases (0)")
	c.stop()
	c = start(t, Options{Data: data})
	d.address = c.address
	if err := d.exchange(); err != nil {
		t.Errorf("after a restart half-way: %v", err)
	}
	if sum := c.rewrap(); sum.DeviceKeys != 1 || sum.Sessions != 1 || sum.Primary != second.ID {
		t.Errorf("wrapped anew: %+v", sum)
	}
	keyringOf[api.KeyringList](c, http.MethodDelete, "/keys/"+first.ID, "", 200)
	refused(http.MethodDelete, "/keys/"+first.ID, "", 404, first.ID)
	if err := d.exchange(); err != nil {
		t.Error(err)
	}
	c.stop()
	if ring := readFile(t, filepath.Join(data, "keyring.json")); strings.Contains(ring, first.ID) || !strings.Contains(ring, second.ID) {
		t.Error("the file is not what the API says")
	}
	c = start(t, Options{Data: data})
	d.address = c.address
	if err := d.exchange(); err != nil {
		t.Errorf("after the rotation and a restart: %v", err)
	}
	_, log := c.ask(http.MethodGet, "/api/v1/audit?limit=1000", "", "")
	var told struct{ Records []audit.Record }
	if err := json.Unmarshal([]byte(log), &told); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range told.Records {
		if strings.HasPrefix(r.Action, "keyring.") {
			got = append(got, fmt.Sprint(r.Actor.Name, " ", r.Action, " ", r.Attrs))
		}
	}
	want := []string{
		"administrator keyring.key_added map[kek:" + second.ID + "]",
		"administrator keyring.primary_set map[kek:" + second.ID + "]",
		"administrator keyring.rewrapped map[device_keys:1 kek:" + second.ID + "]",
		"administrator keyring.rewrapped map[kek:" + second.ID + " sessions:1]",
		"administrator keyring.key_removed map[kek:" + first.ID + "]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the audit log (-want +got):\n%s", diff)
	}
}

// TestKeyringChangeFails: a change that cannot be written is none, and the log
// says so; a ring that somebody else edited is not overwritten.
func TestKeyringChangeFails(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	file := filepath.Join(data, "keyring.json")
	second := keyringOf[api.KeyringKey](c, http.MethodPost, "/keys", "", 201)
	theirs := strings.Replace(readFile(t, file), "\n", "\n\n", 1)
	write(t, file, theirs)
	for _, ask := range []struct{ method, path, body string }{
		{http.MethodPost, "/keys", ""},
		{http.MethodPut, "/primary", `{"id":"` + second.ID + `"}`},
		{http.MethodDelete, "/keys/" + second.ID, ""},
	} {
		if status, body := c.ask(ask.method, "/api/v1/keyring"+ask.path, "application/json", ask.body); status != 409 || !strings.Contains(body, "changed by other hands") {
			t.Errorf("%s %s: %d %s", ask.method, ask.path, status, body)
		}
		if _, log := c.ask(http.MethodGet, "/api/v1/audit?last=1", "", ""); !strings.Contains(log, "keyring.failed") {
			t.Errorf("%s %s: the log says %s", ask.method, ask.path, log)
		}
	}
	if readFile(t, file) != theirs || len(c.keys()) != 2 {
		t.Error("something changed")
	}
	// Removing failed half-way; the key is there and can be used all the same.
	c.stop()
	c = start(t, Options{Data: data})
	keyringOf[api.KeyringList](c, http.MethodPut, "/primary", `{"id":"`+second.ID+`"}`, 200)
	c.add("roof-1")
}

// TestRemovedKeyComesBack: a key that was removed is taken again from an older
// copy of the ring, as after a restore.
func TestRemovedKeyComesBack(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	first := c.keys()[0]
	second := keyringOf[api.KeyringKey](c, http.MethodPost, "/keys", "", 201)
	older := readFile(t, filepath.Join(data, "keyring.json"))
	keyringOf[api.KeyringList](c, http.MethodPut, "/primary", `{"id":"`+second.ID+`"}`, 200)
	keyringOf[api.KeyringList](c, http.MethodDelete, "/keys/"+first.ID, "", 200)
	c.stop()
	write(t, filepath.Join(data, "keyring.json"), older)
	c = start(t, Options{Data: data})
	c.add("roof-1")
	keys := c.keys()
	if i := slices.IndexFunc(keys, func(k api.KeyringKey) bool { return k.ID == first.ID }); len(keys) != 2 || i < 0 || keys[i].DeviceKeys != 1 {
		t.Errorf("the ring is %+v", keys)
	}
}

// TestUnknownKEK names every key that is missing, and what to do.
//
// Attacks: K15
func TestUnknownKEK(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	c.add("roof-1")
	first := c.keys()[0]
	second := keyringOf[api.KeyringKey](c, http.MethodPost, "/keys", "", 201)
	keyringOf[api.KeyringList](c, http.MethodPut, "/primary", `{"id":"`+second.ID+`"}`, 200)
	c.add("roof-2")
	c.stop()
	file := filepath.Join(data, "keyring.json")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	refused := func(want ...string) {
		t.Helper()
		err := Run(t.Context(), Options{Data: data, Listen: "127.0.0.1:0", Ready: func(string) { t.Error("it serves") }})
		for _, text := range append(want, "put", "back", file, "ecowatt.db") {
			if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v; want one line that says %q", err, text)
			}
		}
	}
	refused(first.ID, second.ID, "is missing")
	if _, err := os.Stat(file); err == nil {
		t.Error("a key ring was made")
	}
	if _, err := keyring.Create(file, rand.Reader); err != nil {
		t.Fatal(err)
	}
	refused(first.ID, second.ID, "does not hold")
}

// TestPurges: a cloud that runs removes what is left of sessions by itself, also
// of those of the process before it.
func TestPurges(t *testing.T) {
	data := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(data, "ecowatt.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := db.Append(t.Context(), audit.Record{Actor: audit.Actor{Kind: audit.System}, Action: "test.done"}); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(filepath.Join(data, "ecowatt.db-wal"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if size() == 0 {
		t.Fatal("there is nothing to be emptied")
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &server{db: db, logger: slog.New(slog.DiscardHandler)}
	var wait sync.WaitGroup
	wait.Go(func() { s.purge(ctx) })
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for size() > 0 {
		<-look.C
	}
	cancel()
	wait.Wait()
}
