package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestClonedGateway starts two agents from copies of one folder. They take each
// other's session, which tells them apart from one that is alone: the cloud says
// so, once, keeps neither out, and the gateway next door notices nothing.
//
// Attacks: R19
func TestClonedGateway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	if err := os.CopyFS(f.roof("copy"), os.DirFS(f.roof("roof-1"))); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"psk.a", "psk.b"} { // CopyFS keeps modes, but for the umask
		name := filepath.Join(f.roof("copy"), "keys", key)
		if _, err := os.Stat(name); err == nil {
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	type device struct {
		Cloned *time.Time `json:"clone_suspected_at"`
	}
	suspected := func(name string) bool {
		return parseJSON[device](t, must(t, f.env, "ecowatt", "device", "show", name, "--json")).Cloned != nil
	}
	f.startRoof(t, "roof-2")
	f.startRoof(t, "roof-1")
	f.awaitServed(t, 3)
	if suspected("roof-1") {
		t.Fatal("a gateway alone is suspected")
	}
	f.startRoof(t, "copy")
	eventually(t, "the clone is suspected", func() bool { return suspected("roof-1") })
	log := must(t, f.env, "ecowatt", "log", "--security", "--device", "roof-1", "--last", "0")
	wantLines(t, log, `device\.clone_suspect`, 1)
	wantLines(t, log, `reason=CLONE_SUSPECT sign=often_replaced`, 1) // they have the boot of this machine
	wantLines(t, must(t, f.env, "ecowatt", "device", "list"), `roof-1 .*clone\?`, 1)
	wantLines(t, must(t, f.env, "ecowatt", "device", "show", "roof-1"), `^clone +two devices seemed to have its key`, 1)
	if suspected("roof-2") {
		t.Error("the gateway next door is suspected")
	}
	if s, ok := f.status(t, "roof-2"); !ok || s.Uplink.Failures != 0 {
		t.Errorf("the gateway next door: %+v, %v", s, ok)
	}
}

// wantLines checks how many lines of text match a pattern.
func wantLines(t *testing.T, text, pattern string, want int) {
	t.Helper()
	if got := len(regexp.MustCompile(`(?m)`+pattern).FindAllString(text, -1)); got != want {
		t.Errorf("%d lines match %s, want %d:\n%s", got, pattern, want, text)
	}
}
