package keyring

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ecowatt/internal/disk"
	"ecowatt/key"
)

// Errors of the file, besides fs.ErrNotExist and fs.ErrExist.
var (
	// ErrExposed says that others may read or change the file.
	ErrExposed = errors.New("a key ring must be its owner's alone")
	// ErrFormat says that the content is not a key ring that this program knows.
	ErrFormat = errors.New("not a valid key ring")
	// ErrFull says that the file would become too large: there are hundreds of keys.
	ErrFull = errors.New("the key ring is full: remove keys that wrap nothing")
)

const (
	fileMode = 0o600
	// maxFile bounds what is read; a key takes about 150 bytes.
	maxFile = 64 << 10
	// formatVersion is the version of the file.
	formatVersion = 1
	// idSize is the length of an id in bytes; in the file it has twice as many digits.
	idSize = 8
)

// file is the content of a key ring: JSON with exactly these fields in this
// order. White space is free.
type file struct {
	Format  int       `json:"format"`
	Primary string    `json:"primary"` // id of the key that wraps
	Keys    []fileKey `json:"keys"`    // at least one, each with an id and a key of its own
}

type fileKey struct {
	ID   string    `json:"id"`   // 16 lower-case hexadecimal digits
	Made time.Time `json:"made"` // in UTC, RFC 3339
	Key  []byte    `json:"key"`  // 32 bytes, in base64
}

// Open reads the key ring at path. It refuses a file that others may read or
// change (ErrExposed) and one that is not a key ring (ErrFormat); a file that is
// not there is fs.ErrNotExist.
func Open(path string) (*Ring, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring: %w", err)
	}
	defer clear(data)
	c, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring %s: %w", path, err)
	}
	r := &Ring{path: path, sum: sha256.Sum256(data)}
	r.content.Store(c)
	return r, nil
}

// Create draws a key-encryption key from random, which must be a cryptographic
// source, and writes a key ring with it to path, durably and with mode 0600. A
// file that is there already is never replaced: fs.ErrExist.
func Create(path string, random io.Reader) (*Ring, error) {
	r, err := create(path, random)
	if err != nil {
		return nil, fmt.Errorf("creating the key ring: %w", err)
	}
	return r, nil
}

func create(path string, random io.Reader) (*Ring, error) {
	_, err := os.Lstat(path)
	if err == nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	first, err := Draw(random, time.Now())
	if err != nil {
		return nil, err
	}
	r := &Ring{path: path}
	return r, r.write(&content{primary: first.ID, keys: map[string]kek{first.ID: {first.key, first.Made}}})
}

// write makes c the content of the file, durably, and then that of the ring.
// When it fails both are what they were, unless the disk failed to say which of
// the two the file is.
func (r *Ring) write(c *content) error {
	data, err := encode(c)
	if err != nil {
		return err
	}
	defer clear(data)
	if len(data) > maxFile {
		return ErrFull
	}
	if err := disk.WriteFile(disk.OS(filepath.Dir(r.path)), filepath.Base(r.path), data, fileMode); err != nil {
		return err
	}
	r.sum = sha256.Sum256(data)
	r.content.Store(c)
	return nil
}

// encode writes a key ring, the keys by age.
func encode(c *content) ([]byte, error) {
	f := file{Format: formatVersion, Primary: c.primary}
	defer func() { f.clear() }()
	for _, k := range c.list() {
		secret := c.keys[k.ID].key.Secret()
		f.Keys = append(f.Keys, fileKey{ID: k.ID, Made: k.Made, Key: bytes.Clone(secret[:])})
		clear(secret[:])
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// readPrivate reads a file of which it has made sure that it is nobody else's.
func readPrivate(path string) ([]byte, error) {
	// A pipe would block until somebody writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is not a regular file", path, ErrFormat)
	}
	if mode := info.Mode().Perm(); mode&^fileMode != 0 {
		return nil, fmt.Errorf("%s: %w: its mode is %#o; make it 0600 (chmod 600 %s)", path, ErrExposed, mode, path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int64(stat.Uid) != int64(os.Geteuid()) {
		return nil, fmt.Errorf("%s: %w: it belongs to user %d, and this program runs as user %d", path, ErrExposed, stat.Uid, os.Geteuid())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrFormat, maxFile)
	}
	return data, nil
}

// parse reads the content of a key ring. Its errors wrap ErrFormat and repeat
// nothing of the content but ids.
func parse(data []byte) (*content, error) {
	f, err := decode(data)
	defer f.clear()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	c := &content{primary: f.Primary, keys: make(map[string]kek, len(f.Keys))}
	for i, k := range f.Keys {
		secret, err := key.KEKFromBytes(k.Key)
		switch {
		case !validID(k.ID):
			return nil, fmt.Errorf("%w: key %d: the id is not %d lower-case hexadecimal digits", ErrFormat, i+1, 2*idSize)
		case err != nil:
			return nil, fmt.Errorf("%w: key %s: %w", ErrFormat, k.ID, err)
		case c.knows(k.ID):
			return nil, fmt.Errorf("%w: key %s is there twice", ErrFormat, k.ID)
		}
		for id, other := range c.keys {
			if other.key.Equal(secret) {
				return nil, fmt.Errorf("%w: keys %s and %s are the same", ErrFormat, id, k.ID)
			}
		}
		c.keys[k.ID] = kek{secret, k.Made}
	}
	if !c.knows(c.primary) {
		return nil, fmt.Errorf("%w: the primary key is not among the keys", ErrFormat)
	}
	return c, nil
}

// decode reads the one spelling of a key ring. What encoding/json lets pass
// (names in other letters, twice, or unknown, null for a value) does not come
// back when it is written again.
func decode(data []byte) (file, error) {
	var f file
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch err := json.Unmarshal(data, &f); {
	case errors.As(err, &syntax):
		return f, fmt.Errorf("not JSON: wrong at byte %d of %d", syntax.Offset, len(data))
	case errors.As(err, &kind):
		return f, fmt.Errorf("a value of the wrong type ends at byte %d", kind.Offset)
	case err != nil:
		return f, errors.New("a key is not base64, or a time not RFC 3339")
	case f.Format != formatVersion:
		return f, fmt.Errorf("format %d is not known here, only %d", f.Format, formatVersion)
	}
	again, err := json.Marshal(f)
	defer clear(again)
	if err != nil {
		return f, errors.New("it cannot be written again")
	}
	var compact bytes.Buffer
	defer func() { clear(compact.Bytes()) }()
	if err := json.Compact(&compact, data); err != nil || !bytes.Equal(compact.Bytes(), again) {
		return f, errors.New("other fields than format, primary, keys, id, made and key, or in another order or spelling")
	}
	return f, nil
}

func (f file) clear() {
	for _, k := range f.Keys {
		clear(k.Key)
	}
}

func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == idSize && hex.EncodeToString(b) == s
}
