package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// each runs a test on the real disk and on its double: they must agree.
func each(t *testing.T, test func(t *testing.T, fsys disk.FS)) {
	t.Helper()
	t.Run("os", func(t *testing.T) { test(t, disk.OS(t.TempDir())) })
	t.Run("double", func(t *testing.T) { test(t, disktest.New()) })
}

func write(t *testing.T, f disk.File, err error, text string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, fsys disk.FS, name string) string {
	t.Helper()
	data, err := disk.ReadFile(fsys, name, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFS(t *testing.T) {
	each(t, func(t *testing.T, fsys disk.FS) {
		if err := fsys.MkdirAll("a/b", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := fsys.MkdirAll("a/b", 0o700); err != nil {
			t.Errorf("making a folder that is there: %v", err)
		}
		f, err := fsys.Append("a/b/f", 0o600)
		write(t, f, err, "one")
		f, err = fsys.Append("a/b/f", 0o600)
		write(t, f, err, "two")
		if got := content(t, fsys, "a/b/f"); got != "onetwo" {
			t.Errorf("appended: %q", got)
		}
		if err := fsys.Truncate("a/b/f", 4); err != nil || content(t, fsys, "a/b/f") != "onet" {
			t.Errorf("truncated: %v, %q", err, content(t, fsys, "a/b/f"))
		}
		f, err = fsys.Create("a/g", 0o640)
		write(t, f, err, "three")
		if err := fsys.Rename("a/g", "a/b/f"); err != nil || content(t, fsys, "a/b/f") != "three" {
			t.Errorf("renamed: %v, %q", err, content(t, fsys, "a/b/f"))
		}
		info, err := fsys.Stat("a/b/f")
		if err != nil || info.Size() != 5 || info.Mode() != 0o640 || info.Name() != "f" {
			t.Errorf("stat: %v %v", info, err)
		}
		if info, err := fsys.Stat("a"); err != nil || !info.IsDir() {
			t.Errorf("stat of a folder: %v %v", info, err)
		}
		f, err = fsys.Create("a/b/f", 0o600)
		write(t, f, err, "4")
		if got := content(t, fsys, "a/b/f"); got != "4" {
			t.Errorf("created anew: %q", got)
		}
		for _, folder := range []string{".", "a", "a/b"} {
			if err := fsys.SyncDir(folder); err != nil {
				t.Error(err)
			}
		}
		names, err := fsys.List("a")
		if diff := cmp.Diff([]string{"b"}, names); diff != "" || err != nil {
			t.Errorf("list: %v\n%s", err, diff)
		}
		if err := fsys.Remove("a"); err == nil {
			t.Error("a full folder was removed")
		}
		if err := errors.Join(fsys.Remove("a/b/f"), fsys.Remove("a/b"), fsys.Remove("a")); err != nil {
			t.Error(err)
		}
	})
}

func TestFSNotThere(t *testing.T) {
	each(t, func(t *testing.T, fsys disk.FS) {
		_, openErr := fsys.Open("x")
		_, listErr := fsys.List("x")
		_, statErr := fsys.Stat("x")
		_, createErr := fsys.Create("x/y", 0o600)
		for name, err := range map[string]error{
			"open": openErr, "list": listErr, "stat": statErr, "create": createErr, "remove": fsys.Remove("x"),
			"rename": fsys.Rename("x", "y"), "truncate": fsys.Truncate("x", 0), "sync": fsys.SyncDir("x"),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := disk.Delete(fsys, "x"); err != nil {
			t.Errorf("deleting what is not there: %v", err)
		}
	})
}

func TestWriteFile(t *testing.T) {
	each(t, func(t *testing.T, fsys disk.FS) {
		for _, text := range []string{"one", "", strings.Repeat("long ", 100)} {
			if err := disk.WriteFile(fsys, "f", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := content(t, fsys, "f"); got != text {
				t.Errorf("%q instead of %q", got, text)
			}
		}
		if info, err := fsys.Stat("f"); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode: %v %v", info, err)
		}
		if names, err := fsys.List("."); err != nil || !slices.Equal(names, []string{"f"}) {
			t.Errorf("left behind: %v %v", names, err)
		}
		if _, err := disk.ReadFile(fsys, "f", 10); !errors.Is(err, disk.ErrTooLarge) {
			t.Errorf("read beyond the limit: %v", err)
		}
		if err := disk.WriteFile(fsys, "no/f", nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no folder: %v", err)
		}
	})
}

// A file that an interrupted writing left behind, with a mode that is too wide,
// must not lend its mode to the new file.
func TestWriteFileOverLeftover(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f.tmp"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteFile(disk.OS(dir), "f", []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "f")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestWriteFileOnFullDisk(t *testing.T) {
	d := disktest.New()
	if err := disk.WriteFile(d, "f", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(6)
	if err := disk.WriteFile(d, "f", []byte("new ones"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk: %v", err)
	}
	if names, err := d.List("."); err != nil || !slices.Equal(names, []string{"f"}) || content(t, d, "f") != "old" {
		t.Errorf("%v, %v, %q", names, err, content(t, d, "f"))
	}
}

func TestWriteFileSurvives(t *testing.T) {
	versions := []string{"first", "the second", "3"}
	done := 0
	work := func(fsys disk.FS) error {
		done = 0
		if err := disk.MkdirAll(fsys, "a/b", 0o700); err != nil {
			return err
		}
		for _, v := range versions {
			if err := disk.WriteFile(fsys, "a/b/f", []byte(v), 0o600); err != nil {
				return err
			}
			done++
		}
		return nil
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		got, err := disk.ReadFile(fsys, "a/b/f", 100)
		may := []string{""}
		if done > 0 {
			may = []string{versions[done-1]}
		}
		if done < len(versions) {
			may = append(may, versions[done])
		}
		if err != nil && (done > 0 || !errors.Is(err, fs.ErrNotExist)) || !slices.Contains(may, string(got)) {
			t.Errorf("%q (%v), which is none of %q", got, err, may)
		}
	})
}

func TestDeleteSurvives(t *testing.T) {
	done := false
	work := func(fsys disk.FS) error {
		done = false
		if err := disk.WriteFile(fsys, "f", []byte("x"), 0o600); err != nil {
			return err
		}
		err := disk.Delete(fsys, "f")
		done = err == nil
		return err
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		if _, err := fsys.Stat("f"); done && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is back: %v", err)
		}
	})
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := disk.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = disk.Lock(dir)
	want := fmt.Sprintf("%s is in use by another process (pid %d)", dir, os.Getpid())
	if !errors.Is(err, disk.ErrLocked) || err.Error() != want {
		t.Errorf("second lock: %v, want %s", err, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := disk.Lock(dir)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	again.Close()
	if _, err := disk.Lock(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// records appends texts to a log, and syncs after those that end in "!".
func records(fsys disk.FS, texts ...string) (synced int, err error) {
	l, err := disk.OpenLog(fsys, "log", 0o600, func([]byte) error { return nil })
	if err != nil {
		return 0, err
	}
	for i, text := range texts {
		if err := l.Append([]byte(text)); err != nil {
			return synced, err
		}
		if strings.HasSuffix(text, "!") {
			if err := l.Sync(); err != nil {
				return synced, err
			}
			synced = i + 1
		}
	}
	return synced, l.Close()
}

func readLog(t *testing.T, fsys disk.FS) (texts []string, l *disk.Log) {
	t.Helper()
	l, err := disk.OpenLog(fsys, "log", 0o600, func(r []byte) error {
		texts = append(texts, string(r))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts, l
}

func TestLogSurvives(t *testing.T) {
	texts := []string{"a", "", "ccc!", "dddd", strings.Repeat("e", 5000), "f!", "g"}
	synced := 0
	work := func(fsys disk.FS) (err error) {
		synced, err = records(fsys, texts...)
		return err
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		got, l := readLog(t, fsys)
		if len(got) < synced || len(got) > len(texts) || !slices.Equal(got, texts[:len(got)]) {
			t.Fatalf("%d records of which %d were synced: %.60q", len(got), synced, got)
		}
		if err := errors.Join(l.Append([]byte("new")), l.Sync(), l.Close()); err != nil {
			t.Fatal(err)
		}
		again, l := readLog(t, fsys)
		if diff := cmp.Diff(append(got, "new"), again); diff != "" || l.Lost() != 0 {
			t.Errorf("appended after the cut, %d bytes lost:\n%s", l.Lost(), diff)
		}
	})
}

func TestLogDamaged(t *testing.T) {
	whole := []byte{}
	for _, r := range []string{"first", "second", "third"} {
		whole = disk.AppendRecord(whole, []byte(r))
	}
	const one = 8 + 5 // bytes of the first record
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 0x40
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		want []string
		lost int64
	}{
		{"whole", whole, []string{"first", "second", "third"}, 0},
		{"last byte missing", whole[:len(whole)-1], []string{"first", "second"}, 8 + 4},
		{"half a head", whole[:one+3], []string{"first"}, 3},
		{"length", flip(one), []string{"first"}, int64(len(whole) - one)},
		{"checksum", flip(one + 5), []string{"first"}, int64(len(whole) - one)},
		{"content", flip(one + 9), []string{"first"}, int64(len(whole) - one)},
		{"zeros follow", append(bytes.Clone(whole), make([]byte, 100)...), []string{"first", "second", "third"}, 100},
		{"empty", nil, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, fsys disk.FS) {
				f, err := fsys.Create("log", 0o600)
				write(t, f, err, string(c.data))
				got, l := readLog(t, fsys)
				if diff := cmp.Diff(c.want, got); diff != "" || l.Lost() != c.lost || l.Size() != int64(len(c.data))-c.lost {
					t.Errorf("%d bytes lost, want %d; size %d\n%s", l.Lost(), c.lost, l.Size(), diff)
				}
			})
		})
	}
}

func TestLogOnFullDisk(t *testing.T) {
	d := disktest.New()
	if _, err := records(d, "first!"); err != nil {
		t.Fatal(err)
	}
	_, l := readLog(t, d)
	d.SetCapacity(l.Size() + 11)
	if err := l.Append([]byte("second")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk: %v", err)
	}
	if info, err := d.Stat("log"); err != nil || info.Size() != l.Size() {
		t.Errorf("half a record stays: %v bytes, %v", info.Size(), err)
	}
	if err := l.Append([]byte("3")); err != nil {
		t.Errorf("a shorter record would fit: %v", err)
	}
	d.SetCapacity(0)
	if err := errors.Join(l.Append([]byte("fourth")), l.Close()); err != nil {
		t.Fatal(err)
	}
	got, l := readLog(t, d)
	if diff := cmp.Diff([]string{"first!", "3", "fourth"}, got); diff != "" || l.Lost() != 0 {
		t.Errorf("%d bytes lost\n%s", l.Lost(), diff)
	}
	if err := l.Append(make([]byte, disk.MaxRecord+1)); !errors.Is(err, disk.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(disk.AppendRecord(nil, []byte("one")))
	f.Add(append(disk.AppendRecord(disk.AppendRecord(nil, nil), []byte("two")), 0, 0, 0, 3, 1, 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		size, err := disk.ReadRecords(bytes.NewReader(data), func(r []byte) error {
			again = disk.AppendRecord(again, r)
			return nil
		})
		if err != nil || size != int64(len(again)) || !bytes.HasPrefix(data, again) {
			t.Errorf("%d bytes of %d read, %v", size, len(data), err)
		}
	})
}
