package disktest_test

import (
	"errors"
	"testing"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// naive ways of replacing a file, each of which leaves out one thing.
var naive = map[string]func(fsys disk.FS, data string) error{
	"in place": func(fsys disk.FS, data string) error {
		return put(fsys, "f", data, true)
	},
	"without sync of the file": func(fsys disk.FS, data string) error {
		return errors.Join(put(fsys, "f.tmp", data, false), fsys.Rename("f.tmp", "f"), fsys.SyncDir("."))
	},
	"without sync of the folder": func(fsys disk.FS, data string) error {
		return errors.Join(put(fsys, "f.tmp", data, true), fsys.Rename("f.tmp", "f"))
	},
	"old one removed first": func(fsys disk.FS, data string) error {
		err := errors.Join(put(fsys, "f.tmp", data, true), fsys.Remove("f"), fsys.SyncDir("."))
		return errors.Join(err, fsys.Rename("f.tmp", "f"), fsys.SyncDir("."))
	},
}

func put(fsys disk.FS, name, data string, sync bool) error {
	f, err := fsys.Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(data))
	if sync {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}

// harm replaces a file in one of the ways and counts the cuts after which it is
// neither the old nor the new one, or the old one though the work was done.
func harm(replace func(fsys disk.FS, data string) error) (n int) {
	var fsys disk.FS
	work := func(f disk.FS) error {
		fsys = f
		if err := disk.WriteFile(fsys, "f", []byte("old old old"), 0o600); err != nil {
			return err
		}
		return replace(fsys, "new new new new")
	}
	for cut, after := range disktest.Cuts(work) {
		if cut.Op > 0 && cut.Op <= 5 {
			continue // the first writing, which is disk.WriteFile's: see its own test
		}
		got, err := disk.ReadFile(after, "f", 100)
		if err != nil || string(got) != "old old old" && string(got) != "new new new new" {
			n++
		}
	}
	// Done, and then the power goes.
	d := disktest.New()
	if err := work(d); err != nil {
		return n + 1
	}
	if got, err := disk.ReadFile(d.Restart(disktest.Lost), "f", 100); err != nil || string(got) != "new new new new" {
		n++
	}
	return n
}

// The double is worth something only if it catches what is commonly forgotten.
func TestCutsCatchNaiveWriting(t *testing.T) {
	for name, replace := range naive {
		t.Run(name, func(t *testing.T) {
			if harm(replace) == 0 {
				t.Error("no cut does harm")
			}
		})
	}
	if n := harm(func(fsys disk.FS, data string) error { return disk.WriteFile(fsys, "f", []byte(data), 0o600) }); n != 0 {
		t.Errorf("WriteFile: %d cuts do harm", n)
	}
}

// What lasts in front of the place where a file is cut is not in danger; what lasted
// in a file that is made anew is.
func TestWhatLastsOfAFileThatIsCut(t *testing.T) {
	for _, fate := range []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed} {
		for _, anew := range []bool{false, true} {
			d := disktest.New()
			if err := errors.Join(put(d, "f", "0123456789", true), d.SyncDir(".")); err != nil {
				t.Fatal(err)
			}
			var err error
			if anew {
				err = put(d, "f", "012", false)
			} else {
				err = d.Truncate("f", 3)
			}
			f, opening := d.Append("f", 0o600)
			if err := errors.Join(err, opening); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write([]byte("abcdef")); err != nil {
				t.Fatal(err)
			}
			got, err := disk.ReadFile(d.Restart(fate), "f", 100)
			if err != nil {
				t.Fatal(err)
			}
			want := map[disktest.Fate][2]string{
				disktest.Lost: {"0123456789", "0123456789"}, disktest.Kept: {"012abcdef", "012abcdef"},
				disktest.Torn: {"012abc", "012a"}, disktest.Holed: {"012abc\x00\x00\x00", "012a\x00\x00\x00\x00\x00"},
			}[fate]
			if anew && string(got) != want[1] || !anew && string(got) != want[0] {
				t.Errorf("%v, made anew %v: %q", fate, anew, got)
			}
		}
	}
}

func TestNoPower(t *testing.T) {
	d := disktest.New()
	f, err := d.Create("f", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d.CutAt(d.Ops()+1, disktest.Before)
	if _, err := f.Write([]byte("x")); !errors.Is(err, disktest.ErrPowerCut) {
		t.Fatalf("write: %v", err)
	}
	_, openErr := d.Open("f")
	_, createErr := d.Create("g", 0o600)
	_, listErr := d.List(".")
	_, statErr := d.Stat("f")
	for name, err := range map[string]error{
		"open": openErr, "create": createErr, "list": listErr, "stat": statErr, "sync": f.Sync(), "close": f.Close(),
		"rename": d.Rename("f", "g"), "remove": d.Remove("f"), "truncate": d.Truncate("f", 0),
		"mkdir": d.MkdirAll("d", 0o700), "mkdir again": d.MkdirAll(".", 0o700), "sync folder": d.SyncDir("."),
	} {
		if !errors.Is(err, disktest.ErrPowerCut) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
