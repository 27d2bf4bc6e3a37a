package cloud

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/api"
	"ecowatt/cloud/artifact"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
	"ecowatt/firmware"
	"ecowatt/key"
)

// vector is a file of the vectors of docs/formats/firmware.md.
func vector(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("..", "firmware", "testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// artifactFiles lists what is in the folder of artifacts, by its path there.
func artifactFiles(t *testing.T, data string) (paths []string) {
	t.Helper()
	folder := os.DirFS(filepath.Join(data, artifactsFolder))
	err := fs.WalkDir(folder, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func (r *running) push(bundle string) (int, string) {
	r.t.Helper()
	return r.ask(http.MethodPost, "/api/v1/firmware", "application/x-tar", bundle)
}

func (r *running) fetch(name, ranges string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.address+artifact.Path+name, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Range", ranges)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// contentsOf are the files of a bundle.
func contentsOf(t *testing.T, bundle string) map[string]string {
	t.Helper()
	b, err := firmware.ReadBundle(strings.NewReader(bundle), rollout.MaxBundle)
	contents := map[string]string{}
	for err == nil {
		var f firmware.File
		var r io.Reader
		if f, r, err = b.Next(); err == nil {
			var content []byte
			content, err = io.ReadAll(r)
			contents[f.String()] = string(content)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return contents
}

// A release is pushed, listed, fetched by whoever knows the names, also after a
// restart, pushed again where files were lost, and removed with its files.
func TestReleaseComesAndGoes(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	bundle := vector(t, "release.ewfw")
	if status, body := c.push(bundle); status != http.StatusConflict || !strings.Contains(body, "no_root") {
		t.Errorf("without a root of trust: %d %s", status, body)
	}
	if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", vector(t, "root.cbor")); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	status, body := c.push(bundle)
	var pushed api.PushedRelease
	if err := json.Unmarshal([]byte(body), &pushed); err != nil || status != http.StatusCreated || !pushed.Added || pushed.Release.Missing != 0 {
		t.Fatalf("%d %s", status, body)
	}
	contents := contentsOf(t, bundle)
	fetched := func() {
		t.Helper()
		for name, content := range contents {
			if status, got := c.fetch(name, ""); status != http.StatusOK || got != content {
				t.Errorf("%s: %d, %d bytes", name, status, len(got))
			}
			if status, got := c.fetch(name, "bytes=5-"); status != http.StatusPartialContent || got != content[5:] {
				t.Errorf("%s from 5 on: %d, %d bytes", name, status, len(got))
			}
		}
	}
	fetched()
	if status, body := c.push(bundle); status != http.StatusOK || !strings.Contains(body, `"added":false`) {
		t.Errorf("again: %d %s", status, body)
	}

	lost := artifactFiles(t, data)[0]
	if err := os.Remove(filepath.Join(data, artifactsFolder, lost)); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(data, artifactsFolder, "ab", "ab"+strings.Repeat("0", 62))
	cut := filepath.Join(data, artifactsFolder, "incoming", "7")
	for _, name := range []string{orphan, cut} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c.stop()
	var logs bytes.Buffer
	c = start(t, Options{Data: data, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	for _, name := range []string{orphan, cut} {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there after a restart: %v", name, err)
		}
	}
	if _, body := c.ask(http.MethodGet, "/api/v1/firmware/"+pushed.Release.ID, "", ""); !strings.Contains(body, `"missing":1`) {
		t.Errorf("a file is missing: %s", body)
	}
	if status, _ := c.push(bundle); status != http.StatusOK {
		t.Errorf("with a file missing: %d", status)
	}
	fetched()
	if status, body := c.ask(http.MethodDelete, "/api/v1/firmware/"+pushed.Release.ID, "", ""); status != http.StatusNoContent {
		t.Errorf("removing: %d %s", status, body)
	}
	if left := artifactFiles(t, data); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	_, log := c.ask(http.MethodGet, "/api/v1/audit", "", "")
	for _, action := range []string{"firmware.added", "firmware.removed"} {
		if strings.Count(log, `"`+action+`"`) != 1 {
			t.Errorf("the log has %s other than once: %s", action, log)
		}
	}
	c.stop()
	if !strings.Contains(logs.String(), "files of a release are missing: push its bundle again") {
		t.Errorf("the log does not tell that a file is missing:\n%s", &logs)
	}
}

// What is not signed as it must be, or is damaged anywhere, is refused with its
// reason, told of in the log, and leaves nothing behind.
//
// Attacks: A9
func TestRefusedReleaseLeavesNothing(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", vector(t, "root.cbor")); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	bundle := vector(t, "release.ewfw")
	flip := func(at int) string { return bundle[:at] + string(bundle[at]^1) + bundle[at+1:] }
	signature := strings.Index(bundle, "content-key") - 600 // within the second signature
	last := len(bundle) - 3*512                             // within the last file
	for name, x := range map[string]struct {
		bundle, code, reason string
	}{
		"nothing":              {"", "format", ""},
		"text":                 {strings.Repeat("hello", 1000), "format", ""},
		"a signature flipped":  {flip(signature), "FW_BAD_SIGNATURE", "FW_BAD_SIGNATURE"},
		"another content key":  {flip(strings.Index(bundle, "content-key") + 512), "content_key", ""},
		"a file flipped":       {flip(last), "FW_BAD_CHUNK", "FW_BAD_CHUNK"},
		"cut off":              {bundle[:len(bundle)-4*512], "format", ""},
		"something follows it": {bundle + "x", "format", ""},
	} {
		status, body := c.push(x.bundle)
		var p struct{ Errors []struct{ Value string } }
		if err := json.Unmarshal([]byte(body), &p); err != nil || status != http.StatusUnprocessableEntity || len(p.Errors) != 1 || p.Errors[0].Value != x.code {
			t.Errorf("%s: %d %s, want %s", name, status, body, x.code)
		}
		if left := artifactFiles(t, data); len(left) > 0 {
			t.Errorf("%s: %v are left", name, left)
		}
		_, log := c.ask(http.MethodGet, "/api/v1/audit?last=1", "", "")
		var records api.Records
		if err := json.Unmarshal([]byte(log), &records); err != nil || len(records.Records) != 1 {
			t.Fatalf("%v %s", err, log)
		}
		if r := records.Records[0]; r.Action != "firmware.refused" || r.Attrs[audit.AttrReason] != x.reason || r.Attrs["code"] != x.code {
			t.Errorf("%s: the log ends with %v", name, r)
		}
	}
	if _, body := c.ask(http.MethodGet, "/api/v1/firmware", "", ""); !strings.Contains(body, `"releases":[]`) {
		t.Errorf("releases: %s", body)
	}
	if status, body := c.push(bundle); status != http.StatusCreated {
		t.Errorf("the honest one: %d %s", status, body)
	}
}

// While one bundle comes others are asked to come again; one that is given up
// leaves nothing, and the next one is taken.
func TestOneBundleAtATime(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", vector(t, "root.cbor")); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	bundle := vector(t, "release.ewfw")
	slow, end := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.address+"/api/v1/firmware", slow)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token())
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	if _, err := io.WriteString(end, bundle[:len(bundle)-3*512]); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for len(artifactFiles(t, data)) == 0 {
		select {
		case <-look.C:
		case err := <-done:
			t.Fatalf("the bundle is answered: %v", err)
		}
	}
	if status, body := c.push(bundle); status != http.StatusServiceUnavailable || !strings.Contains(body, "another bundle") {
		t.Errorf("beside another one: %d %s", status, body)
	}
	if err := end.CloseWithError(errors.New("given up")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("a bundle that was given up was answered")
	}
	status, body := c.push(bundle)
	for deadline := time.Now().Add(time.Minute); status == http.StatusServiceUnavailable && time.Now().Before(deadline); {
		status, body = c.push(bundle)
	}
	if status != http.StatusCreated {
		t.Errorf("after it: %d %s", status, body)
	}
	if left := artifactFiles(t, data); len(left) != len(contentsOf(t, bundle)) {
		t.Errorf("%v are there", left)
	}
}

// largeBundle is a bundle of a release whose image does not get smaller.
func largeBundle(tb testing.TB, size int) (bundle, root []byte) {
	tb.Helper()
	image := make([]byte, size)
	if _, err := rand.Read(image); err != nil {
		tb.Fatal(err)
	}
	k, err := key.NewContent(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	m := firmware.Manifest{Format: 1, Product: firmware.ProductID{1}, Version: "2", Release: 2, Hardware: []string{"gw-1"}, Size: uint64(size), Image: sha256.Sum256(image)}
	p, err := firmware.Pack(firmware.Source{Kind: firmware.KindFull, Plain: image, Window: 1 << 20}, k, m.Product, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	m.Payloads = append(m.Payloads, p.Payload)
	e, err := m.Unsigned()
	if err == nil {
		err = e.Sign(firmware.StatementManifest, signing(tb, "a"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	var b bytes.Buffer
	err = firmware.WriteBundle(&b, firmware.Bundle{Envelope: e, Content: k, Open: func(f firmware.File) (io.Reader, error) {
		if f.Name == p.Payload.Table {
			return bytes.NewReader(p.Table), nil
		}
		return bytes.NewReader(p.Artifact), nil
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes(), testRoot(tb, 1, "a")
}

// A bundle is never in memory as a whole.
func TestPushingTakesLittleMemory(t *testing.T) {
	const size = 24 << 20
	bundle, root := largeBundle(t, size)
	c := start(t, Options{Data: t.TempDir()})
	if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", string(root)); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	text := string(bundle)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if status, body := c.push(text); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > size/4 {
		t.Errorf("%d bytes were allocated for a bundle of %d", got, len(text))
	}
}
