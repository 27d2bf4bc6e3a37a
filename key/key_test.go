package key

import (
	"bytes"
	"crypto/rand"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pattern is what no output may contain, in hex, decimal or as text.
const pattern = "SECRETSECRETSECRETSECRETSECRETXY"

// hidden is a value that holds a key and prints without showing it.
type hidden interface {
	fmt.Stringer
	fmt.GoStringer
	slog.LogValuer
	IsZero() bool
	Destroy()
	MarshalJSON() ([]byte, error)
	MarshalText() ([]byte, error)
	MarshalBinary() ([]byte, error)
	MarshalCBOR() ([]byte, error)
	MarshalYAML() (any, error)
}

func all(t *testing.T) map[string]hidden {
	t.Helper()
	device, err := DeviceFromBytes([]byte(pattern))
	psk, err2 := PSKFromBytes([]byte(pattern))
	session, err3 := SessionFromBytes([]byte(pattern + pattern + pattern))
	kek, err4 := KEKFromBytes([]byte(pattern))
	api, err5 := NewToken(strings.NewReader(pattern))
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	content, err := ContentFromBytes([]byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	storage, err := StorageFromSecret([]byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	signing, err := SigningFromSeed([]byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]hidden{"Signing": signing, "Storage": storage, "Content": content, "Device": device, "PSK": psk, "Session": session, "KEK": kek, "Token": api}
}

// Attacks: A4
func TestNothingPrintsAKey(t *testing.T) {
	for name, k := range all(t) {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%b", "%p", "%08o", "%T"} {
			fmt.Fprintf(&out, verb+"\n", k)
			fmt.Fprintf(&out, verb+"\n", &k)
			fmt.Fprintf(&out, verb+"\n", []hidden{k})
			fmt.Fprintf(&out, verb+"\n", map[string]any{"k": k})
			fmt.Fprintf(&out, verb+"\n", struct{ K any }{k})
			fmt.Fprintf(&out, verb+"\n", struct{ k hidden }{k}) // fmt asks no method of an unexported field
			fmt.Fprintf(&out, verb+"\n", &struct{ k hidden }{k})
			fmt.Fprintf(&out, verb+"\n", fmt.Errorf("wrapped: %v", k))
		}
		text := slog.New(slog.NewTextHandler(&out, nil))
		text.Info("a", "k", k)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("a", "k", k, "nested", struct{ K any }{k})
		low := strings.ToLower(out.String())
		for _, leak := range []string{"SECRETS", hex.EncodeToString([]byte("SECR")), "83 69 67 82", "83, 69", "0x53, 0x45", "123 105 103"} {
			if strings.Contains(low, strings.ToLower(leak)) {
				t.Errorf("%s: the output shows the key as %q", name, leak)
			}
		}
		if want := "key." + name + "(secret)"; k.String() != want || k.GoString() != want || k.LogValue().String() != want {
			t.Errorf("%s prints as %q", name, k.String())
		}
	}
}

// TestConcreteTypesPrintNothing holds the keys in fields of their own type, as
// real structs do: an interface would hide a mistake.
func TestConcreteTypesPrintNothing(t *testing.T) {
	device, err := DeviceFromBytes([]byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	type owner struct {
		Public Device
		secret Device
		list   []Device
		array  [1]Device
		table  map[string]Device
	}
	o := owner{device, device, []Device{device}, [1]Device{device}, map[string]Device{"k": device}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out := strings.ToLower(fmt.Sprintf(verb, o) + fmt.Sprintf(verb, &o))
		if strings.Contains(out, "secrets") || strings.Contains(out, "53454352") || strings.Contains(out, "83 69 67") || strings.Contains(out, "0x53, 0x45") {
			t.Errorf("%s shows the key: %s", verb, out)
		}
	}
}

// Attacks: A4
func TestNothingMarshalsAKey(t *testing.T) {
	for name, k := range all(t) {
		marshal := map[string]func() error{
			"json":   func() error { _, err := json.Marshal(map[string]any{"k": k}); return err },
			"JSON":   func() error { _, err := k.MarshalJSON(); return err },
			"xml":    func() error { return xml.NewEncoder(io.Discard).Encode(k) },
			"gob":    func() error { return gob.NewEncoder(io.Discard).Encode(k) },
			"text":   func() error { _, err := k.MarshalText(); return err },
			"binary": func() error { _, err := k.MarshalBinary(); return err },
			"cbor":   func() error { _, err := k.MarshalCBOR(); return err },
			"yaml":   func() error { _, err := k.MarshalYAML(); return err },
		}
		for how, f := range marshal {
			err := f()
			if !errors.Is(err, ErrSecret) {
				t.Errorf("%s was marshalled as %s, or not for the right reason: %v", name, how, err)
			} else if strings.Contains(err.Error(), "SECRETS") {
				t.Errorf("%s: the error of %s shows the key", name, how)
			}
		}
	}
}

// TestKeysDoNotCompareWithOperators compiles k == k for every role and wants
// the compiler to refuse it.
func TestKeysDoNotCompareWithOperators(t *testing.T) {
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "source", nil)
	check := func(expression string) error {
		file, err := parser.ParseFile(fset, "x.go", "package x\nimport \"ecowatt/key\"\nvar a, b "+expression+"\nvar _ = a == b\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		c := types.Config{Importer: imports}
		_, err = c.Check("x", fset, []*ast.File{file}, nil)
		return err
	}
	for _, role := range []string{"Device", "PSK", "Session", "KEK", "Token", "Content", "Storage"} {
		if err := check("key." + role); err == nil || !strings.Contains(err.Error(), "cannot compare") && !strings.Contains(err.Error(), "cannot be compared") {
			t.Errorf("key.%s == key.%s: %v; want a compile error", role, role, err)
		}
	}
	if err := check("key.ID"); err != nil {
		t.Errorf("key.ID is public and should compare: %v", err)
	}
}

func TestDeviceFromBytesRefusesWhatNobodyDrew(t *testing.T) {
	count := func(first, step int) []byte {
		b := make([]byte, Size)
		for i := range b {
			b[i] = byte(first + i*step)
		}
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nil":             {nil, ErrLength},
		"empty":           {[]byte{}, ErrLength},
		"31 bytes":        {[]byte(pattern)[:31], ErrLength},
		"33 bytes":        {[]byte(pattern + "x"), ErrLength},
		"all zero":        {make([]byte, Size), ErrWeak},
		"all ff":          {bytes.Repeat([]byte{0xff}, Size), ErrWeak},
		"counting up":     {count(0, 1), ErrWeak},
		"counting on":     {count(250, 1), ErrWeak},
		"counting down":   {count(31, -1), ErrWeak},
		"counting by two": {count(1, 2), ErrWeak},
	} {
		if k, err := DeviceFromBytes(c.b); !errors.Is(err, c.want) || !k.IsZero() {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	almost := count(0, 1)
	almost[31]++
	if _, err := DeviceFromBytes(almost); err != nil {
		t.Errorf("a key that only begins regularly: %v", err)
	}
}

func TestOtherKeysRefuseWrongLengths(t *testing.T) {
	for _, n := range []int{0, 1, 31, 33, 95, 97, 128} {
		b := bytes.Repeat([]byte{7}, n)
		if _, err := PSKFromBytes(b); !errors.Is(err, ErrLength) {
			t.Errorf("PSK of %d bytes: %v", n, err)
		}
		if _, err := KEKFromBytes(b); !errors.Is(err, ErrLength) {
			t.Errorf("KEK of %d bytes: %v", n, err)
		}
		if _, err := SessionFromBytes(b); !errors.Is(err, ErrLength) {
			t.Errorf("Session of %d bytes: %v", n, err)
		}
	}
	if _, err := PSKFromBytes(make([]byte, Size)); !errors.Is(err, ErrWeak) {
		t.Errorf("PSK of zeros: %v", err)
	}
	if _, err := SessionFromBytes(make([]byte, SessionSize)); !errors.Is(err, ErrWeak) {
		t.Errorf("Session of zeros: %v", err)
	}
}

func TestStorageFromSecret(t *testing.T) {
	secret := make([]byte, MinStorageSecret)
	for i := range secret {
		secret[i] = byte(7 + i)
	}
	k, err := StorageFromSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	const want = "35ad32243cc0bfff8e6bb929fcd8a08074bc7cc98d0d58a0128f604c12031342" // of another implementation of RFC 5869
	if got := k.Secret(); hex.EncodeToString(got[:]) != want {
		t.Errorf("derived %x, want %s", got, want)
	}
	other, err := StorageFromSecret(append(secret, 0))
	if err != nil || other.Equal(k) || !k.Equal(k) {
		t.Errorf("another secret makes the same key, or none: %v", err)
	}
	if _, err := StorageFromSecret(secret[1:]); !errors.Is(err, ErrLength) {
		t.Errorf("a secret that is too short: %v", err)
	}
}

func TestDrawing(t *testing.T) {
	if _, err := NewDevice(bytes.NewReader(make([]byte, 31))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that ends: %v", err)
	}
	if _, err := NewDevice(bytes.NewReader(make([]byte, 32))); !errors.Is(err, ErrWeak) {
		t.Errorf("a source of zeros: %v", err)
	}
	a, err := NewDevice(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewDevice(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.Equal(b) || !a.Equal(a) {
		t.Error("Equal cannot tell keys apart")
	}
	out := a.Secret()
	back, err := DeviceFromBytes(out[:])
	if err != nil || !back.Equal(a) {
		t.Errorf("a key does not come back: %v", err)
	}
	out[0]++
	if !back.Equal(a) {
		t.Error("Secret handed out the key itself, not a copy")
	}
}

func TestDestroy(t *testing.T) {
	for name, k := range all(t) {
		before := k
		k.Destroy()
		if !k.IsZero() || !before.IsZero() {
			t.Errorf("%s: a copy outlived Destroy", name)
		}
		k.Destroy()
	}
	d, err := DeviceFromBytes([]byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	held := d.bytes()
	d.Destroy()
	if !bytes.Equal(held, make([]byte, Size)) {
		t.Error("Destroy left the bytes in memory")
	}
	if !d.NoisePSK(1).IsZero() || d.Secret() != [Size]byte{} {
		t.Error("something came out of a destroyed key")
	}
	Device{}.Destroy()
}

// The values are those of wire/testdata/vectors.json.
func TestNoisePSK(t *testing.T) {
	for _, c := range []struct{ device, psk string }{
		{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "d81130e2e6b1a89b3ad32ce69ee967f529d57ac601a84537657c90adcc38605f"},
		{"ae528aa01fc251a5046f3145ebfb7d601864cfd2aadf0adf702d22f92bae54c0", "116f6bf7dd559e01d00e61dd66ef9bebe7f858f1517b843b597253953a5f4023"},
	} {
		b, err := hex.DecodeString(c.device)
		if err != nil {
			t.Fatal(err)
		}
		psk := Device{seal[deviceRole](b)}.NoisePSK(1).Secret()
		if diff := cmp.Diff(c.psk, hex.EncodeToString(psk[:])); diff != "" {
			t.Errorf("NoisePSK (-want +got):\n%s", diff)
		}
		if other := (Device{seal[deviceRole](b)}).NoisePSK(2).Secret(); other == psk {
			t.Error("two suites share a key")
		}
	}
}

// The values are those of RFC 8032 section 7.1, tests 1 and 2.
func TestSigning(t *testing.T) {
	for _, c := range []struct{ seed, public, message, signature string }{
		{
			"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
		},
		{
			"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
		},
	} {
		seed, err := hex.DecodeString(c.seed)
		message, err2 := hex.DecodeString(c.message)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		k, err := SigningFromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.Public()); got != c.public {
			t.Errorf("Public: %s, want %s", got, c.public)
		}
		if got := hex.EncodeToString(k.Sign(message)); got != c.signature {
			t.Errorf("Sign: %s, want %s", got, c.signature)
		}
		back := k.Secret()
		if !bytes.Equal(back[:], seed) {
			t.Error("Secret is another seed")
		}
	}
	if (Signing{}).Public() != nil || (Signing{}).Sign(nil) != nil {
		t.Error("no key has a public key, or signs")
	}
	if _, err := SigningFromSeed(make([]byte, Size)); !errors.Is(err, ErrWeak) {
		t.Errorf("a seed of zeros: %v", err)
	}
	if k, err := NewSigning(rand.Reader); err != nil || k.IsZero() {
		t.Errorf("NewSigning: %v", err)
	}
}

func TestToken(t *testing.T) {
	k, err := NewToken(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := k.Text()
	if len(text) != 46 || !strings.HasPrefix(text, "ew_") {
		t.Fatalf("a token of %d characters", len(text))
	}
	back, err := ParseToken(text)
	if err != nil || !back.Equal(k) || back.Hash() != k.Hash() {
		t.Errorf("a token does not come back: %v", err)
	}
	// The last of 43 characters carries 4 bits: the other 2 must be zero.
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", text[45])
	other := text[:45] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last|1])
	for _, bad := range []string{"", "ew_", text[3:], "EW_" + text[3:], text + "A", text[:45], text + "=", text[:44] + "\n" + text[44:45], other, strings.Replace(text, "ew_", "ew-", 1), "ew_" + strings.Repeat("A", 43)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("ParseToken of a text of %d characters: %v", len(bad), err)
		}
	}
	if (Token{}).Text() != "" {
		t.Error("no token has a text")
	}
}

func TestID(t *testing.T) {
	id, err := NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseID(id.String()); err != nil || back != id {
		t.Errorf("ParseID(%s) = %s, %v", id, back, err)
	}
	text, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	var back ID
	if err := json.Unmarshal(text, &back); err != nil || back != id {
		t.Errorf("%s came back as %s, %v", text, back, err)
	}
	for _, bad := range []string{"", "a1", strings.Repeat("g", 32), strings.Repeat("a", 31), strings.Repeat("a", 33), strings.Repeat("a", 34)} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) was accepted", bad)
		}
		if err := back.UnmarshalText([]byte(bad)); err == nil || back != id {
			t.Errorf("UnmarshalText(%q): %v", bad, err)
		}
	}
	if _, err := NewID(bytes.NewReader(nil)); err == nil {
		t.Error("an id was drawn from nothing")
	}
}
