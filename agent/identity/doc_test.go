package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
)

// withSum appends the checksum of a slot's other bytes.
func withSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(slices.Clip(b), sum[:]...)
}

func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/formats/keys.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentedBytes compares the tables of docs/formats/keys.md with the code.
func TestDocumentedBytes(t *testing.T) {
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| `).FindAllStringSubmatch(document(t), -1) {
		got = append(got, row[1]+"+"+row[2])
	}
	var want []string
	for _, offsets := range [][]int{
		{0, offVersion, offState, offFlags, offReserved, offEpoch, offID, offEnd, offKey},
		{offKey, offKey + key.Size, plainSize},
		{offKey, offKey + chacha20poly1305.NonceSize, offKey + sealedKeySize, sealedSize},
	} {
		for i, at := range offsets[:len(offsets)-1] {
			want = append(want, fmt.Sprintf("%d+%d", at, offsets[i+1]-at))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("offset+bytes (-code +docs):\n%s", diff)
	}
	for _, sentence := range []string{"100 bytes in all", "128 bytes in all", StorageCredential, fmt.Sprintf("%.0f days", FallbackAge.Hours()/24)} {
		if !strings.Contains(document(t), sentence) {
			t.Errorf("the document does not say %q", sentence)
		}
	}
	if plainSize != 100 || sealedSize != 128 {
		t.Errorf("slots have %d and %d bytes", plainSize, sealedSize)
	}
}

// TestForeignSlots: examples that are not made with appendSlot.
func TestForeignSlots(t *testing.T) {
	header := []byte("EWPK\x02\x03\x00\x00\x00\x00\x01\x02")
	for i := range key.IDSize {
		header = append(header, byte(i*i+3))
	}
	header = binary.BigEndian.AppendUint64(header, 1_782_036_000_000)
	secret := make([]byte, key.Size)
	for i := range secret {
		secret[i] = byte(i*i + 5)
	}
	k := storage(t, "right")
	raw := k.Secret()
	aead, err := chacha20poly1305.New(raw[:])
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte("twelve bytes")
	sealedHeader := slices.Clone(header)
	sealedHeader[6] = 1
	for name, b := range map[string][]byte{
		"plain":  slices.Concat(header, secret),
		"sealed": slices.Concat(sealedHeader, nonce, aead.Seal(nil, nonce, secret, sealedHeader)),
	} {
		s, _, err := parseSlot(withSum(b), k)
		if err != nil || s.Epoch != 258 || s.ID[1] != 4 || s.ID[15] != 228 || s.state != fallback || s.end != 1_782_036_000_000 || s.burn {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
		if got := s.Key.Secret(); !slices.Equal(got[:], secret) {
			t.Errorf("%s: another key", name)
		}
	}
}

// TestDocumentedChanges carries out what docs/formats/keys.md says that happens
// to the slots, line by line.
func TestDocumentedChanges(t *testing.T) {
	_, rest, _ := strings.Cut(document(t), "| slots | what happens | slots then |\n|---|---|---|\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	lines := strings.Split(table, "\n")
	if len(lines) < 9 {
		t.Fatalf("only %d lines in the table", len(lines))
	}
	for _, line := range lines {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		t.Run(line, func(t *testing.T) {
			w := newWorld(t)
			for part := range strings.SplitSeq(cells[0], ", ") {
				w.put(t, part)
			}
			f := at(w.disk)
			id, err := f.Load()
			if err != nil {
				t.Fatal(err)
			}
			switch cells[1] {
			case "an offer", "another offer":
				newest := id.Active.Epoch
				if id.Staged != nil {
					newest = id.Staged.Epoch
				}
				_, err = f.Stage(id.Keys, w.credential(t, newest+1), false)
			case "first answer under the staged key":
				w.disk.CutAt(w.disk.Ops()+6, disktest.Before) // after the first file, which takes 5 operations
				if _, err = f.Commit(id.Keys, now); errors.Is(err, disktest.ErrPowerCut) {
					err = nil
				}
				w.disk = w.disk.Restart(disktest.Lost)
			case "at once", "the time is known":
				_, err = f.Tidy(id.Keys, now)
			case "its end has come":
				_, err = f.Tidy(id.Keys, now+FallbackAge.Milliseconds())
			default:
				t.Fatalf("what is %q?", cells[1])
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sorted(cells[2]), sorted(w.describe(t))); diff != "" {
				t.Errorf("slots (-document +code):\n%s", diff)
			}
		})
	}
}

func sorted(list string) []string {
	parts := strings.Split(list, ", ")
	slices.Sort(parts)
	return parts
}

// now is a time, in ms since 1970.
const now = 1_782_036_000_000

// base is the epoch that the document calls e.
const base = 5

// world is a device's disk, on which slots are written as the document calls
// them.
type world struct {
	disk  *disktest.Disk
	known map[key.Epoch]Credential
	slots int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{disk: disktest.New(), known: map[key.Epoch]Credential{}}
	enroll(t, w.disk, enrolment(t))
	if err := disk.Delete(w.disk, slotA); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) credential(t *testing.T, epoch key.Epoch) Credential {
	t.Helper()
	if _, ok := w.known[epoch]; !ok {
		w.known[epoch] = credential(t, epoch)
	}
	return w.known[epoch]
}

// put writes a slot like "active e+1 with burn".
func (w *world) put(t *testing.T, text string) {
	t.Helper()
	var word, epoch string
	if _, err := fmt.Sscan(text, &word, &epoch); err != nil {
		t.Fatal(err)
	}
	n := key.Epoch(base)
	if _, add, ok := strings.Cut(epoch, "+"); ok {
		n += key.Epoch(add[0] - '0')
	}
	s := slot{Credential: w.credential(t, n), burn: strings.HasSuffix(text, " with burn")}
	for _, s.state = range []state{staged, active, fallback} {
		if words()[s.state] == word {
			break
		}
	}
	if strings.HasSuffix(text, " until then") {
		s.end = now + FallbackAge.Milliseconds()
	}
	writeFile(t, w.disk, slotNames()[w.slots], plain(t, s), 0o600)
	w.slots++
}

func words() map[state]string {
	return map[state]string{staged: "staged", active: "active", fallback: "fallback"}
}

// describe tells what the slots say, as the document does.
func (w *world) describe(t *testing.T) string {
	t.Helper()
	var parts []string
	for _, name := range slotNames() {
		b, err := disk.ReadFile(w.disk, name, maxSlotSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s, _, err := parseSlot(b, key.Storage{})
		if err != nil || !s.Equal(w.known[s.Epoch]) {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
		text := words()[s.state] + " e"
		if s.Epoch > base {
			text += fmt.Sprintf("+%d", s.Epoch-base)
		}
		if s.burn {
			text += " with burn"
		}
		if s.end == now+FallbackAge.Milliseconds() {
			text += " until then"
		} else if s.end != 0 {
			t.Errorf("an end of %d", s.end)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}
