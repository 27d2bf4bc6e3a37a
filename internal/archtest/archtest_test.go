// Package archtest checks the shape of the repository: which package may
// import which, and that every package says what it is for.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "ecowatt"

// rules is policy, not a description: do not edit it to make a build pass.
//
// A line reads "package: what it may import". The first line that fits a
// package counts, and every package needs one. A trailing /... matches the
// tree at that path, "." is the root package, std is the standard library and
// pure is the part of it that cannot reach the outside world (see impure).
// Packages whose name ends in test hold helpers for tests: only tests and each
// other may import them, whatever a line says.
const rules = `
	.: pure
	key: pure log/slog
	wire: pure . key github.com/fxamacker/cbor/v2
	wire/noise: pure key wire github.com/flynn/noise
	wire/record: pure key wire golang.org/x/crypto/chacha20poly1305
	block: pure .
	parameter: pure .
	inverter: pure .
	inverter/modbus: std go.bug.st/serial
	inverter/modbus/modbustest: std inverter/modbus golang.org/x/sys/unix
	inverter/sunspec: pure . inverter
	inverter/profile: std . inverter go.yaml.in/yaml/v3
	sim: std . inverter inverter/... sim/fault
	sim/fault: pure
	firmware: pure . key github.com/fxamacker/cbor/v2 github.com/veraison/go-cose golang.org/x/crypto/...
	firmware/delta: pure github.com/klauspost/compress/...
	boot: pure . key firmware internal/disk
	boot/launch: std . boot internal/disk
	agent/acquire: pure log/slog . inverter
	agent/buffer: pure log/slog . block internal/disk
	agent/identity: std . key internal/disk golang.org/x/crypto/chacha20poly1305
	agent/uplink: std . key wire wire/...
	agent/config: pure log/slog . parameter internal/disk
	agent/command: pure log/slog . inverter internal/disk
	agent/update: pure log/slog . key firmware firmware/delta boot internal/disk
	agent: std . key wire block boot parameter inverter inverter/... agent/... internal/disk go.yaml.in/yaml/v3 golang.org/x/sys/unix
	cloud/keyring: std . key internal/disk golang.org/x/crypto/chacha20poly1305
	cloud/registry: pure log/slog . key
	cloud/access: pure log/slog . key golang.org/x/crypto/...
	cloud/audit: pure log/slog . golang.org/x/mod/...
	cloud/session: pure log/slog . key wire wire/...
	cloud/rollup: pure .
	cloud/ingest: pure log/slog . block cloud/rollup
	cloud/config: pure log/slog . parameter
	cloud/command: pure log/slog .
	cloud/rollout: pure log/slog . key firmware firmware/delta
	cloud/artifact: std internal/disk
	cloud/store: std . key cloud/registry cloud/access cloud/audit cloud/session cloud/ingest cloud/rollup cloud/config cloud/command cloud/rollout parameter github.com/ncruces/go-sqlite3/... github.com/jackc/pgx/v5/...
	cloud/gateway: std . key wire wire/... parameter cloud/registry cloud/session cloud/ingest cloud/config cloud/command cloud/rollout cloud/audit
	cloud/api: std . parameter cloud/registry cloud/access cloud/audit cloud/ingest cloud/rollup cloud/config cloud/command cloud/rollout github.com/danielgtaylor/huma/v2/...
	cloud/console: std
	cloud/publish: std . cloud/ingest cloud/registry github.com/eclipse/paho.golang/... github.com/prometheus/client_golang/...
	cloud: std . key cloud/... internal/disk github.com/prometheus/client_golang/...
	internal/disk: std
	internal/disk/disktest: std internal/disk
	internal/archtest: pure
	internal/e2e: pure
	internal/model: pure
	cmd/ecowatt-boot: std . key boot boot/launch internal/disk
	cmd/ecowatt-agent: std . agent agent/... inverter/...
	cmd/ecowatt: std . key wire parameter agent cloud cloud/... sim sim/fault firmware firmware/delta block inverter inverter/... internal/disk github.com/spf13/cobra github.com/klauspost/compress/zstd filippo.io/age golang.org/x/sys/unix
`

func TestImports(t *testing.T) {
	policy := parse(t, rules)
	for dir, files := range packages(t) {
		allowed, ok := policy.find(dir)
		if !ok {
			t.Errorf("%s: no rule in archtest; say what it may import", dir)
			continue
		}
		documented := false
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !permits(allowed, path) || helper(path) && !helper(dir) {
					t.Errorf("%s: must not import %s (allowed: %s)", name, path, strings.Join(allowed, " "))
				}
			}
		}
		if !documented {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

type rule struct {
	pattern string
	allowed []string
}

type policy []rule

func parse(t *testing.T, text string) policy {
	t.Helper()
	var p policy
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		pattern, rest, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("rule without a colon: %q", line)
		}
		p = append(p, rule{pattern, strings.Fields(rest)})
	}
	return p
}

func (p policy) find(dir string) ([]string, bool) {
	for _, r := range p {
		if match(r.pattern, dir) {
			return r.allowed, true
		}
	}
	return nil, false
}

// impure lists the standard packages that pure code must do without: those
// through which a program sees or changes the world around it.
var impure = []string{
	"crypto/tls", "database/...", "log/...", "net/...", "os/...",
	"plugin", "runtime/...", "syscall/...", "testing/...", "unsafe",
}

// harmless are the exceptions to impure: values and their syntax.
var harmless = []string{"net/netip", "net/url"}

func permits(allowed []string, path string) bool {
	std := false
	if path == module {
		path = "."
	} else if dir, ok := strings.CutPrefix(path, module+"/"); ok {
		path = dir
	} else if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		std = true
	}
	for _, pattern := range allowed {
		switch {
		case pattern == "std" && std,
			pattern == "pure" && std && (!anyMatch(impure, path) || anyMatch(harmless, path)),
			match(pattern, path):
			return true
		}
	}
	return false
}

// helper reports whether path is a package made for tests, ours or another's.
func helper(path string) bool { return strings.HasSuffix(path, "test") }

func anyMatch(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

func match(pattern, path string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == tree || strings.HasPrefix(path, tree+"/")
	}
	return pattern == path
}

// packages maps each package folder, relative to the module root, to its
// non-test Go files.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	root := filepath.Join("..", "..")
	found := map[string][]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "tools" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		found[dir] = append(found[dir], filepath.Join(root, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
