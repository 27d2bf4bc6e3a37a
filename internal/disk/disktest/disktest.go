// Package disktest is a disk in memory that loses power: before, inside or after
// any operation, and with it whatever was not synced, or only a part of it.
//
// It is meaner than most disks and as mean as a standard allows. The content of
// a file lasts after File.Sync only, a name after FS.SyncDir of its folder only;
// what was not synced may be lost, kept, or torn: a name without the content,
// half of the content, zeros in place of the rest. Names change atomically and
// in order, as a journalling file system does it.
package disktest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ecowatt/internal/disk"
)

// ErrPowerCut is what every operation returns when there is no power.
var ErrPowerCut = errors.New("power is cut")

// When says where in an operation power is cut.
type When int

// Where power may be cut.
const (
	Before When = iota // nothing of the operation happens
	Inside             // half of it happens: half of the bytes, half of the names
	After              // it happens, but nobody learns of it
)

// String returns a word for the name of a test.
func (w When) String() string { return [...]string{"before", "inside", "after"}[w] }

// Fate says what becomes of what was not synced.
type Fate int

// What may become of it. A program that is killed finds everything kept.
const (
	Lost  Fate = iota // it is as it was at the last sync
	Kept              // it is all there
	Torn              // half of the content is there, and all names are
	Holed             // half of the content is there, zeros stand for the rest, and half of the names are
)

// String returns a word for the name of a test.
func (f Fate) String() string { return [...]string{"lost", "kept", "torn", "holed"}[f] }

// Disk is a disk.FS in memory. Several goroutines may use it; their files have
// one owner each.
type Disk struct {
	mu       sync.Mutex // guards everything, the files included
	now      tree       // what programs see
	durable  tree       // the names that last
	pending  []change   // of names, since they last
	ops      int
	cutOp    int // 0 for never
	cutWhen  When
	off      bool
	capacity int64 // bytes of content; 0 for no bound
}

var _ disk.FS = (*Disk)(nil)

type tree map[string]*node

// node is a file or a folder.
type node struct {
	dir     bool
	perm    fs.FileMode
	content []byte
	synced  []byte // of content, what lasts
	intact  int    // bytes at the begin of both that nothing has touched since
}

// change is a change of names.
type change struct {
	folders []string // in which
	apply   func(tree)
}

// New returns an empty disk.
func New() *Disk {
	root := &node{dir: true, perm: 0o700}
	return &Disk{now: tree{".": root}, durable: tree{".": root}}
}

// CutAt cuts power at the operation number op, counted from 1.
func (d *Disk) CutAt(op int, when When) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutOp, d.cutWhen = op, when
}

// Ops returns how many operations have changed something so far. Reading is none.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// SetCapacity bounds the bytes in all files; a write beyond it takes what fits
// and returns ENOSPC. 0 is no bound.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = n
}

// Restart returns the disk as it is when power is back. What is open on the old
// one has no power any more.
func (d *Disk) Restart(fate Fate) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	names := len(d.pending)
	switch fate {
	case Lost:
		names = 0
	case Holed:
		names /= 2
	case Kept, Torn:
	}
	after := maps.Clone(d.durable)
	for _, c := range d.pending[:names] {
		c.apply(after)
	}
	fresh := map[*node]*node{}
	for name, n := range after {
		if fresh[n] == nil {
			content := survivor(n, fate)
			fresh[n] = &node{dir: n.dir, perm: n.perm, content: content, synced: bytes.Clone(content), intact: len(content)}
		}
		after[name] = fresh[n]
	}
	return &Disk{now: after, durable: maps.Clone(after), capacity: d.capacity}
}

// survivor is what is left of a file's content.
func survivor(n *node, fate Fate) []byte {
	switch fate {
	case Lost:
		return bytes.Clone(n.synced)
	case Kept:
		return bytes.Clone(n.content)
	case Torn, Holed:
	}
	half := torn(n)
	if fate == Holed {
		half = append(half, make([]byte, max(0, len(n.content)-len(half)))...)
	}
	return half
}

// torn is the content with half of what is not synced of it.
func torn(n *node) []byte {
	return bytes.Clone(n.content[:n.intact+(len(n.content)-n.intact)/2])
}

// op does one operation that changes something: half is what is done of it
// when power is cut inside. d.mu is held.
func (d *Disk) op(half, whole func()) error {
	if d.off {
		return ErrPowerCut
	}
	d.ops++
	if d.ops != d.cutOp {
		whole()
		return nil
	}
	d.off = true
	switch d.cutWhen {
	case Before:
	case Inside:
		half()
	case After:
		whole()
	}
	return ErrPowerCut
}

func nothing() {}

// change does one change of names.
func (d *Disk) change(apply func(tree), folders ...string) error {
	return d.op(nothing, func() {
		apply(d.now)
		d.pending = append(d.pending, change{folders, apply})
	})
}

func fail(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// file returns the file name, or an error.
func (d *Disk) file(op, name string) (*node, error) {
	n := d.now[name]
	switch {
	case d.off:
		return nil, ErrPowerCut
	case !fs.ValidPath(name):
		return nil, fail(op, name, fs.ErrInvalid)
	case n == nil:
		return nil, fail(op, name, fs.ErrNotExist)
	case n.dir:
		return nil, fail(op, name, syscall.EISDIR)
	}
	return n, nil
}

// Open opens a file to be read.
func (d *Disk) Open(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file("open", name)
	if err != nil {
		return nil, err
	}
	return &file{d: d, n: n, name: name}, nil
}

// Create opens a file to be written, and empties it.
func (d *Disk) Create(name string, perm fs.FileMode) (disk.File, error) {
	return d.write(name, perm, func(n *node) { n.content, n.intact = nil, 0 })
}

// Append opens a file to be written at its end.
func (d *Disk) Append(name string, perm fs.FileMode) (disk.File, error) {
	return d.write(name, perm, func(*node) {})
}

func (d *Disk) write(name string, perm fs.FileMode, begin func(*node)) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file("open", name)
	if errors.Is(err, fs.ErrNotExist) {
		if parent := d.now[path.Dir(name)]; parent == nil || !parent.dir {
			return nil, err
		}
		n = &node{perm: perm}
		err = d.change(func(t tree) { t[name] = n }, path.Dir(name))
	} else if err == nil {
		err = d.op(nothing, func() { begin(n) })
	}
	if err != nil {
		return nil, err
	}
	return &file{d: d, n: n, name: name, writes: true}, nil
}

// Rename gives a file another name.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file("rename", from)
	if err != nil {
		return err
	}
	if parent := d.now[path.Dir(to)]; parent == nil || !parent.dir || d.now[to] != nil && d.now[to].dir {
		return fail("rename", to, fs.ErrNotExist)
	}
	return d.change(func(t tree) {
		delete(t, from)
		t[to] = n
	}, path.Dir(from), path.Dir(to))
}

// Remove takes a file or an empty folder away.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.file("remove", name); err != nil && !errors.Is(err, syscall.EISDIR) {
		return err
	}
	if len(d.below(name)) > 0 {
		return fail("remove", name, syscall.ENOTEMPTY)
	}
	return d.change(func(t tree) { delete(t, name) }, path.Dir(name))
}

// Truncate cuts a file.
func (d *Disk) Truncate(name string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file("truncate", name)
	if err != nil {
		return err
	}
	if size < 0 || size > int64(len(n.content)) {
		return fail("truncate", name, fs.ErrInvalid)
	}
	return d.op(nothing, func() { n.content, n.intact = bytes.Clone(n.content[:size]), min(n.intact, int(size)) })
}

// MkdirAll makes a folder and those around it.
func (d *Disk) MkdirAll(name string, perm fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !fs.ValidPath(name) {
		return fail("mkdir", name, fs.ErrInvalid)
	}
	for end := 0; end < len(name); {
		if i := strings.IndexByte(name[end+1:], '/'); i >= 0 {
			end += 1 + i
		} else {
			end = len(name)
		}
		folder := name[:end]
		if n := d.now[folder]; n != nil && n.dir {
			continue
		} else if n != nil {
			return fail("mkdir", folder, syscall.ENOTDIR)
		}
		n := &node{dir: true, perm: perm}
		if err := d.change(func(t tree) { t[folder] = n }, path.Dir(folder)); err != nil {
			return err
		}
	}
	if d.off {
		return ErrPowerCut
	}
	return nil
}

// below returns the names in a folder, sorted. d.mu is held.
func (d *Disk) below(folder string) []string {
	var names []string
	for name := range d.now {
		if name != "." && path.Dir(name) == folder {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// List returns the names in a folder.
func (d *Disk) List(name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch n := d.now[name]; {
	case d.off:
		return nil, ErrPowerCut
	case n == nil:
		return nil, fail("open", name, fs.ErrNotExist)
	case !n.dir:
		return nil, fail("open", name, syscall.ENOTDIR)
	}
	return d.below(name), nil
}

// Stat describes a file or folder.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.now[name]
	if d.off {
		return nil, ErrPowerCut
	}
	if n == nil {
		return nil, fail("stat", name, fs.ErrNotExist)
	}
	mode := n.perm
	if n.dir {
		mode |= fs.ModeDir
	}
	return info{name: path.Base(name), size: int64(len(n.content)), mode: mode}, nil
}

// SyncDir makes the names in a folder last.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.now[name]; !d.off && (n == nil || !n.dir) {
		return fail("sync", name, fs.ErrNotExist)
	}
	concerns := func(c change) bool { return slices.Contains(c.folders, name) }
	settle := func(most int) {
		d.pending = slices.DeleteFunc(d.pending, func(c change) bool {
			if most == 0 || !concerns(c) {
				return false
			}
			c.apply(d.durable)
			most--
			return true
		})
	}
	all := 0
	for _, c := range d.pending {
		if concerns(c) {
			all++
		}
	}
	return d.op(func() { settle(all / 2) }, func() { settle(all) })
}

// file is an open file.
type file struct {
	d      *Disk
	n      *node
	name   string
	writes bool
	at     int // of the next read
	closed bool
}

func (f *file) check(op string, allowed bool) error {
	switch {
	case f.d.off:
		return ErrPowerCut
	case f.closed:
		return fail(op, f.name, fs.ErrClosed)
	case !allowed:
		return fail(op, f.name, syscall.EBADF)
	}
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.check("read", !f.writes); err != nil {
		return 0, err
	}
	if f.at >= len(f.n.content) {
		return 0, io.EOF
	}
	n := copy(p, f.n.content[f.at:])
	f.at += n
	return n, nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.check("read", !f.writes); err != nil {
		return 0, err
	}
	n := copy(p, f.n.content[min(off, int64(len(f.n.content))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.check("write", f.writes); err != nil {
		return 0, err
	}
	fits := len(p)
	if f.d.capacity > 0 {
		fits = int(max(0, min(int64(len(p)), f.d.capacity-f.d.used())))
	}
	add := func(n int) func() {
		return func() { f.n.content = append(f.n.content, p[:n]...) }
	}
	if err := f.d.op(add(fits/2), add(fits)); err != nil {
		return 0, err
	}
	if fits < len(p) {
		return fits, fail("write", f.name, syscall.ENOSPC)
	}
	return len(p), nil
}

// used returns the bytes in all files. d.mu is held.
func (d *Disk) used() (n int64) {
	for _, f := range d.now {
		n += int64(len(f.content))
	}
	return n
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.check("sync", true); err != nil {
		return err
	}
	return f.d.op(
		func() { f.n.synced = torn(f.n) },
		func() { f.n.synced, f.n.intact = bytes.Clone(f.n.content), len(f.n.content) })
}

func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.check("close", true); err != nil {
		return err
	}
	f.closed = true
	return nil
}

type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
