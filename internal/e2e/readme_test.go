package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestReadme runs what the README shows: the demonstration, then each command
// of its transcripts, and compares what is printed with what is shown. Numbers
// may differ, words may not; a line "…" stands for any lines.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	// The demonstration as "make demo" starts it, in a folder like a clone's.
	clone := t.TempDir()
	linkPrograms(t, filepath.Join(clone, "bin"))
	address := freeAddress(t)
	demo := startIn(t, clone, nil, "bin/ecowatt", "demo", "--data", ".demo", "--listen", address)
	demo.line(t, 0, `^Ctrl-C stops everything`)

	env := append(os.Environ(), "PATH="+os.Getenv("PATH"))
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	ran := 0
	for _, block := range blocks {
		for _, c := range splitTranscript(block[1]) {
			if c.command == "make demo" {
				demo.mu.Lock()
				got := strings.Join(demo.lines, "\n")
				demo.mu.Unlock()
				if got = strings.ReplaceAll(got, address, "127.0.0.1:8080"); !like(c.output, got) {
					t.Errorf("%s: the README shows\n%s\nbut this is printed:\n%s", c.command, c.output, got)
				}
				ran++
				continue
			}
			if strings.HasPrefix(c.command, "make ") || strings.HasPrefix(c.command, "git ") || strings.HasPrefix(c.command, "cd ") {
				continue // set-up of the clone itself: CI runs it
			}
			command := strings.ReplaceAll(c.command, "127.0.0.1:8080", address)
			if rest, ok := strings.CutPrefix(command, "export "); ok {
				env = append(env, strings.Fields(rest)...)
				continue
			}
			// A reader types later than a test does: until more has happened, again.
			var got string
			what := func() string {
				return fmt.Sprintf("%s prints what the README shows:\n%s\nIt printed\n%s", c.command, c.output, got)
			}
			eventuallyFunc(t, what, func() bool {
				cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
				cmd.Dir, cmd.Env = clone, env
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", c.command, err, out)
				}
				got = strings.ReplaceAll(string(out), address, "127.0.0.1:8080")
				return like(c.output, got)
			})
			ran++
		}
	}
	if ran < 8 {
		t.Errorf("only %d commands of the README were found and run", ran)
	}
	second := run(t, nil, "ecowatt", "demo", "--data", filepath.Join(clone, ".demo"), "--listen", address)
	if second.code != 1 || !strings.Contains(second.stderr, "runs here already") {
		t.Errorf("a second demonstration in the same folder: exit code %d\n%s", second.code, second.stderr)
	}
	demo.end(t, syscall.SIGINT)
}

// linkPrograms makes a folder with the programs in it: names of their own, not a
// symbolic link, for a program is told where it lies after links are resolved.
func linkPrograms(t *testing.T, folder string) {
	t.Helper()
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	programs, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if err := os.Link(filepath.Join(bin, p.Name()), filepath.Join(folder, p.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

type transcript struct{ command, output string }

func splitTranscript(block string) []transcript {
	var all []transcript
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, transcript{command: strings.TrimSpace(command)})
		} else if len(all) > 0 {
			all[len(all)-1].output += line
		}
	}
	return all
}

var (
	ids    = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
	digits = regexp.MustCompile(`[0-9]+`)
	blanks = regexp.MustCompile(`[ \t]+`)
	dashes = regexp.MustCompile(`-0`)
)

// shape is a line without what differs from run to run.
func shape(line string) string {
	line = ids.ReplaceAllString(line, "ID")
	line = digits.ReplaceAllString(line, "0")
	line = dashes.ReplaceAllString(line, "0")
	return strings.TrimSpace(blanks.ReplaceAllString(line, " "))
}

// like reports whether a command printed what is shown: the same words. A line
// "…" stands for any lines, and where nothing is shown nothing is compared.
func like(shown, got string) bool {
	if strings.TrimSpace(shown) == "" {
		return true
	}
	var pattern strings.Builder
	pattern.WriteString(`(?s)\A`)
	for line := range strings.Lines(shown) {
		if s := shape(line); s == "…" {
			pattern.WriteString(`(.*\n)?`)
		} else {
			fmt.Fprintf(&pattern, "%s\n", regexp.QuoteMeta(s))
		}
	}
	pattern.WriteString(`\z`)
	var shaped strings.Builder
	for line := range strings.Lines(strings.TrimRight(got, "\n") + "\n") {
		shaped.WriteString(shape(line) + "\n")
	}
	return regexp.MustCompile(pattern.String()).MatchString(shaped.String())
}
