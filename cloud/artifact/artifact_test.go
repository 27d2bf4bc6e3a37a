package artifact

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

var contents = []string{"", "one", strings.Repeat("another one ", 100)}

func nameOf(content string) Name { return sha256.Sum256([]byte(content)) }

// deliver opens the folder and receives the contents.
func deliver(fsys disk.FS, contents ...string) error {
	f, err := Open(fsys)
	if err != nil {
		return err
	}
	d := f.Receive()
	for _, c := range contents {
		if err := d.Add(nameOf(c), strings.NewReader(c)); err != nil {
			return errors.Join(err, d.Discard())
		}
	}
	return d.Keep()
}

func read(t *testing.T, f *Folder, name Name) (string, bool) {
	t.Helper()
	file, size, err := f.Open(name)
	if errors.Is(err, ErrNotFound) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b, err := io.ReadAll(file)
	if err != nil || int64(len(b)) != size {
		t.Fatalf("%d bytes of %d, %v", len(b), size, err)
	}
	return string(b), true
}

// incomingFiles lists what is being received.
func incomingFiles(t *testing.T, fsys disk.FS) []string {
	t.Helper()
	names, err := fsys.List(incoming)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Power is cut at every operation of two deliveries: what has a name is whole, what
// was acknowledged is there, nothing else takes room, and it works the next time.
func TestPowerCut(t *testing.T) {
	var acknowledged int // of the contents
	work := func(fsys disk.FS) error {
		acknowledged = 0
		for _, upTo := range []int{2, len(contents)} {
			if err := deliver(fsys, contents[acknowledged:upTo]...); err != nil {
				return err
			}
			acknowledged = upTo
		}
		return nil
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, _ disktest.Cut) {
		f, err := Open(fsys)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range contents {
			got, found := read(t, f, nameOf(c))
			if found && got != c {
				t.Errorf("%q lies under the name of %q", got, c)
			}
			if !found && i < acknowledged {
				t.Errorf("%q is gone", c)
			}
		}
		if names := incomingFiles(t, fsys); len(names) > 0 {
			t.Errorf("%v take room", names)
		}
		if err := deliver(fsys, contents...); err != nil {
			t.Fatal(err)
		}
		for _, c := range contents {
			if got, _ := read(t, f, nameOf(c)); got != c {
				t.Errorf("%q where %q was delivered again", got, c)
			}
		}
	})
}

// What is not what its name says, or does not come to its end, is not kept, nor is
// what came with it.
func TestRefused(t *testing.T) {
	broken := errors.New("the line is broken")
	for _, x := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"other content", strings.NewReader("another"), ErrContent},
		{"less", strings.NewReader("on"), ErrContent},
		{"more", strings.NewReader("one "), ErrContent},
		{"cut off", io.MultiReader(strings.NewReader("one"), iotest.ErrReader(broken)), broken},
	} {
		t.Run(x.name, func(t *testing.T) {
			fsys := disktest.New()
			f, err := Open(fsys)
			if err != nil {
				t.Fatal(err)
			}
			d := f.Receive()
			if err := d.Add(nameOf("good"), strings.NewReader("good")); err != nil {
				t.Fatal(err)
			}
			if err := d.Add(nameOf("one"), x.r); !errors.Is(err, x.want) {
				t.Errorf("%v, want %v", err, x.want)
			}
			if err := d.Discard(); err != nil {
				t.Error(err)
			}
			for _, c := range []string{"one", "good"} {
				if got, found := read(t, f, nameOf(c)); found {
					t.Errorf("%q was kept", got)
				}
			}
			if names := incomingFiles(t, fsys); len(names) > 0 {
				t.Errorf("%v take room", names)
			}
		})
	}
}

// A disk that is full is told of, and is as before.
func TestFull(t *testing.T) {
	fsys := disktest.New()
	if err := deliver(fsys, "one"); err != nil {
		t.Fatal(err)
	}
	fsys.SetCapacity(100)
	if err := deliver(fsys, contents...); err == nil {
		t.Fatal("there was no room")
	}
	if names := incomingFiles(t, fsys); len(names) > 0 {
		t.Errorf("%v take room", names)
	}
	fsys.SetCapacity(0)
	if err := deliver(fsys, contents...); err != nil {
		t.Error(err)
	}
}

func TestSweepTakesWhatNobodyNeeds(t *testing.T) {
	fsys := disktest.New()
	if err := deliver(fsys, contents...); err != nil {
		t.Fatal(err)
	}
	f, err := Open(fsys)
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Sweep(func(name Name) bool { return name == nameOf("one") })
	if err != nil || n != 2 {
		t.Errorf("%d removed, %v; want 2", n, err)
	}
	for _, c := range contents {
		if got := f.Has(nameOf(c), uint64(len(c))); got != (c == "one") {
			t.Errorf("%.10q is there: %v", c, got)
		}
	}
	if f.Has(nameOf("one"), 4) {
		t.Error("it has another size")
	}
	if err := f.Remove(nameOf("absent")); err != nil {
		t.Error(err)
	}
}

// The modes of what is made: nobody else reads or writes it.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	if err := deliver(disk.OS(dir), "one"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{nameOf("one").path(): 0o600, nameOf("one").folder(): 0o700, incoming: 0o700} {
		info, err := disk.OS(dir).Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
	}
}

func TestParseName(t *testing.T) {
	good := nameOf("one").String()
	if n, ok := ParseName(good); !ok || n.String() != good {
		t.Errorf("%s is not read", good)
	}
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), "../" + good, strings.Replace(good, good[:1], "g", 1), good + "/"} {
		if _, ok := ParseName(bad); ok {
			t.Errorf("%q is a name", bad)
		}
	}
}

// A large file is received in pieces, each of which lasts before the next comes.
func TestReceivesInPieces(t *testing.T) {
	content := bytes.Repeat([]byte{7}, 2*syncEach+1)
	counted := &syncCounter{FS: disktest.New()}
	f, err := Open(counted)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Receive().Add(sha256.Sum256(content), bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if counted.syncs != 3 || counted.most > syncEach {
		t.Errorf("%d syncs, at most %d bytes between them; want 3 and %d", counted.syncs, counted.most, syncEach)
	}
}

type syncCounter struct {
	disk.FS
	syncs, since, most int
}

func (c *syncCounter) Create(name string, perm fs.FileMode) (disk.File, error) {
	f, err := c.FS.Create(name, perm)
	return &countedFile{f, c}, err
}

type countedFile struct {
	disk.File
	c *syncCounter
}

func (f *countedFile) Write(p []byte) (int, error) {
	f.c.since += len(p)
	f.c.most = max(f.c.most, f.c.since)
	return f.File.Write(p)
}

func (f *countedFile) Sync() error {
	f.c.syncs++
	f.c.since = 0
	return f.File.Sync()
}
