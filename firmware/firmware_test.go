package firmware

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/veraison/go-cose"

	"ecowatt/key"
)

var product = ProductID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// signing returns the n-th key of the tests.
func signing(tb testing.TB, n byte) key.Signing {
	tb.Helper()
	seed := sha256.Sum256([]byte{n})
	k, err := key.SigningFromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func content(tb testing.TB, n byte) key.Content {
	tb.Helper()
	b := sha256.Sum256([]byte{'c', n})
	k, err := key.ContentFromBytes(b[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func publics(keys ...key.Signing) []ed25519.PublicKey {
	var all []ed25519.PublicKey
	for _, k := range keys {
		all = append(all, k.Public())
	}
	return all
}

func sign(tb testing.TB, kind Statement, e Envelope, keys ...key.Signing) Envelope {
	tb.Helper()
	for _, k := range keys {
		if err := e.Sign(kind, k); err != nil {
			tb.Fatal(err)
		}
	}
	return e
}

func encoded(tb testing.TB, e Envelope) []byte {
	tb.Helper()
	b, err := e.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// testRoot is root 1: root keys 1, 2, 3, of which 2 are needed, and release keys
// 4, 5, of which 2 are needed.
func testRoot(tb testing.TB) Root {
	tb.Helper()
	r, err := NewRoot(1, publics(signing(tb, 1), signing(tb, 2), signing(tb, 3)), publics(signing(tb, 4), signing(tb, 5)), 2, 2)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func signedRoot(tb testing.TB, r Root, keys ...key.Signing) []byte {
	tb.Helper()
	e, err := r.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	return encoded(tb, sign(tb, StatementRoot, e, keys...))
}

// random is a reproducible source for salts.
func random() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{7}) }

func image(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

func packed(tb testing.TB, plain []byte) Packed {
	tb.Helper()
	p, err := Pack(Source{Kind: KindFull, Plain: plain, Window: 1 << 20}, content(tb, 1), product, random())
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func testManifest(tb testing.TB) Manifest {
	tb.Helper()
	img := image(50_000)
	return Manifest{
		Format: 1, Product: product, Hardware: []string{"gw-1", "gw-2"}, Version: "1.2.0", Release: 12, Security: 3,
		Size: uint64(len(img)), Image: sha256.Sum256(img), Payloads: []Payload{packed(tb, img).Payload},
		Created: 1_790_000_000,
	}
}

func signedManifest(tb testing.TB, m Manifest, keys ...key.Signing) Envelope {
	tb.Helper()
	e, err := m.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	return sign(tb, StatementManifest, e, keys...)
}

func TestManifestRoundTrip(t *testing.T) {
	m := testManifest(t)
	e, err := ParseEnvelope(encoded(t, signedManifest(t, m, signing(t, 4), signing(t, 5))))
	if err != nil {
		t.Fatal(err)
	}
	got, err := testRoot(t).Manifest(e)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("the manifest changed on its way (-put +got):\n%s", diff)
	}
	if got, want := e.Signers(StatementManifest), []KeyID{IDOf(signing(t, 4).Public()), IDOf(signing(t, 5).Public())}; !slices.Equal(got, want) {
		t.Errorf("Signers: %v, want %v", got, want)
	}
}

// Attacks: F1, F3, F21
func TestSignaturesThatDoNotCount(t *testing.T) {
	root := testRoot(t)
	m := testManifest(t)
	again := signedManifest(t, m, signing(t, 4))
	again.Signatures = append(again.Signatures, again.Signatures[0])
	for name, e := range map[string]Envelope{
		"unsigned":            signedManifest(t, m),
		"one of two":          signedManifest(t, m, signing(t, 4)),
		"one key twice":       again,
		"a key of nobody":     signedManifest(t, m, signing(t, 4), signing(t, 9)),
		"root keys":           signedManifest(t, m, signing(t, 1), signing(t, 2), signing(t, 3)),
		"signed as root":      sign(t, StatementRoot, signedManifest(t, m), signing(t, 4), signing(t, 5)),
		"signed as downgrade": sign(t, StatementDowngrade, signedManifest(t, m), signing(t, 4), signing(t, 5)),
	} {
		if _, err := root.Manifest(e); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	without, err := NewRoot(2, publics(signing(t, 1), signing(t, 2), signing(t, 3)), publics(signing(t, 5), signing(t, 6)), 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Manifest(signedManifest(t, m, signing(t, 4), signing(t, 5))); !errors.Is(err, ErrSignature) {
		t.Errorf("a key that the root removed: %v, want ErrSignature", err)
	}
	r, err := root.Unsigned()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRoot(encoded(t, sign(t, StatementManifest, r, signing(t, 1), signing(t, 2)))); !errors.Is(err, ErrSignature) {
		t.Errorf("a root signed as a manifest: %v, want ErrSignature", err)
	}
}

// Attacks: F2
func TestEachBitOfAManifestIsSigned(t *testing.T) {
	root := testRoot(t)
	e := signedManifest(t, testManifest(t), signing(t, 4), signing(t, 5))
	for bit := range len(e.Body) * 8 {
		forged := Envelope{Body: bytes.Clone(e.Body), Signatures: e.Signatures}
		forged.Body[bit/8] ^= 1 << (bit % 8)
		if _, err := root.Manifest(forged); !errors.Is(err, ErrSignature) {
			t.Fatalf("bit %d: %v, want ErrSignature, before anything is decoded", bit, err)
		}
	}
	for i, s := range e.Signatures {
		for bit := range len(s) * 8 {
			forged := Envelope{Body: e.Body, Signatures: slices.Clone(e.Signatures)}
			forged.Signatures[i] = bytes.Clone(s)
			forged.Signatures[i][bit/8] ^= 1 << (bit % 8)
			if _, err := root.Manifest(forged); !errors.Is(err, ErrSignature) {
				t.Fatalf("signature %d, bit %d: %v, want ErrSignature", i, bit, err)
			}
		}
	}
}

// A signature is held to exactly the headers that Sign writes.
func TestSignatureHeaders(t *testing.T) {
	root, body := testRoot(t), signedManifest(t, testManifest(t)).Body
	with := func(k key.Signing, change func(*cose.Sign1Message)) []byte {
		id := IDOf(k.Public())
		m := cose.Sign1Message{Payload: body, Headers: cose.Headers{Protected: cose.ProtectedHeader{
			cose.HeaderLabelAlgorithm: cose.AlgorithmEdDSA, cose.HeaderLabelKeyID: id[:], cose.HeaderLabelType: string(StatementManifest),
		}, Unprotected: cose.UnprotectedHeader{}}}
		change(&m)
		attached := m.Payload
		m.Payload = body
		if err := m.Sign(nil, nil, signer{k}); err != nil {
			t.Fatal(err)
		}
		if m.Payload = nil; len(attached) > 0 && attached[0] == 0 {
			m.Payload = body
		}
		b, err := m.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		change func(*cose.Sign1Message)
		good   bool
	}{
		"as it should be":       {func(*cose.Sign1Message) {}, true},
		"without type":          {func(m *cose.Sign1Message) { delete(m.Headers.Protected, cose.HeaderLabelType) }, false},
		"without id":            {func(m *cose.Sign1Message) { delete(m.Headers.Protected, cose.HeaderLabelKeyID) }, false},
		"an unprotected header": {func(m *cose.Sign1Message) { m.Headers.Unprotected[int64(99)] = int64(1) }, false},
		"one more header":       {func(m *cose.Sign1Message) { m.Headers.Protected[int64(99)] = int64(1) }, false},
		"payload attached":      {func(m *cose.Sign1Message) { m.Payload = []byte{0} }, false},
	} {
		e := Envelope{Body: body, Signatures: [][]byte{with(signing(t, 4), c.change), with(signing(t, 5), c.change)}}
		if _, err := root.Manifest(e); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Attacks: F4, F5, F6, F22
func TestManifestCheck(t *testing.T) {
	root := testRoot(t)
	here := Target{Product: product, Hardware: "gw-2", Device: "roof-1", Release: 11, Security: 3, Protocol: 1, SlotSize: 1 << 20}
	statement := Downgrade{Product: product, From: 20, To: 12, Devices: []string{"roof-1"}}
	other := statement
	other.Product[0]++
	expired := Downgrade{Product: product, From: 20, To: 12, Expires: 1000}
	for name, c := range map[string]struct {
		manifest   func(*Manifest)
		target     func(*Target)
		root       func(*Root)
		downgrades []Downgrade
		want       error
	}{
		"good":                                {},
		"another product":                     {target: func(x *Target) { x.Product[3]++ }, want: ErrProduct},
		"another revision":                    {target: func(x *Target) { x.Hardware = "gw-3" }, want: ErrHardware},
		"a revision that begins alike":        {target: func(x *Target) { x.Hardware = "gw-" }, want: ErrHardware},
		"the release that runs":               {target: func(x *Target) { x.Release = 12 }, want: ErrDowngrade},
		"a later one runs":                    {target: func(x *Target) { x.Release = 20 }, want: ErrDowngrade},
		"named by the manifest":               {target: func(x *Target) { x.Release = 20 }, manifest: func(m *Manifest) { m.DowngradeFrom = []uint64{20} }},
		"the manifest names another":          {target: func(x *Target) { x.Release = 20 }, manifest: func(m *Manifest) { m.DowngradeFrom = []uint64{19} }, want: ErrDowngrade},
		"a statement":                         {target: func(x *Target) { x.Release = 20 }, downgrades: []Downgrade{statement}},
		"a statement for another device":      {target: func(x *Target) { x.Release, x.Device = 20, "roof-2" }, downgrades: []Downgrade{statement}, want: ErrDowngrade},
		"a statement from another release":    {target: func(x *Target) { x.Release = 21 }, downgrades: []Downgrade{statement}, want: ErrDowngrade},
		"a statement for another product":     {target: func(x *Target) { x.Release = 20 }, downgrades: []Downgrade{other}, want: ErrDowngrade},
		"a statement that expired":            {target: func(x *Target) { x.Release, x.Now = 20, 1001 }, downgrades: []Downgrade{expired}, want: ErrDowngrade},
		"a statement that expires, no clock":  {target: func(x *Target) { x.Release = 20 }, downgrades: []Downgrade{expired}, want: ErrDowngrade},
		"a statement that has not expired":    {target: func(x *Target) { x.Release, x.Now = 20, 1000 }, downgrades: []Downgrade{expired}},
		"a statement does not lower security": {target: func(x *Target) { x.Release, x.Security = 20, 4 }, downgrades: []Downgrade{statement}, want: ErrDowngrade},
		"an older security version":           {target: func(x *Target) { x.Security = 4 }, want: ErrDowngrade},
		"larger than the slot":                {target: func(x *Target) { x.SlotSize = 49_999 }, want: ErrTooLarge},
		"expired":                             {manifest: func(m *Manifest) { m.Expires = 5000 }, target: func(x *Target) { x.Now = 5001 }, want: ErrExpired},
		"expired, no clock":                   {manifest: func(m *Manifest) { m.Expires = 5000 }},
		"needs a step":                        {manifest: func(m *Manifest) { m.MinFrom = 12 }, want: ErrStep},
		"needs a root":                        {manifest: func(m *Manifest) { m.MinRoot = 2 }, want: ErrMissingRoot},
		"needs a protocol":                    {manifest: func(m *Manifest) { m.MinProtocol = 2 }, want: ErrProtocol},
		"taken back by the root":              {root: func(r *Root) { r.Floor, r.Ceiling = 5, 11 }, want: ErrSignature},
		"the running one was taken back":      {root: func(r *Root) { r.Floor, r.Ceiling = 5, 100 }, target: func(x *Target) { x.Release = 1 << 62 }},
		"and this one is below the floor":     {root: func(r *Root) { r.Floor, r.Ceiling = 12, 100 }, target: func(x *Target) { x.Release = 1 << 62 }, want: ErrDowngrade},
	} {
		m, target, r := testManifest(t), here, root
		if c.manifest != nil {
			c.manifest(&m)
		}
		if c.target != nil {
			c.target(&target)
		}
		if c.root != nil {
			c.root(&r)
		}
		if err := m.Check(target, r, c.downgrades); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// Attacks: F13
func TestManifestsThatMakeNoSense(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"another format":         func(m *Manifest) { m.Format = 2 },
		"no product":             func(m *Manifest) { m.Product = ProductID{} },
		"no hardware":            func(m *Manifest) { m.Hardware = nil },
		"hardware without name":  func(m *Manifest) { m.Hardware = []string{""} },
		"a version of two lines": func(m *Manifest) { m.Version = "1\n2" },
		"release 0":              func(m *Manifest) { m.Release = 0 },
		"security beyond 32 bit": func(m *Manifest) { m.Security = 1 << 32 },
		"no image":               func(m *Manifest) { m.Size = 0 },
		"an image too large":     func(m *Manifest) { m.Size = MaxImage + 1 },
		"no payload":             func(m *Manifest) { m.Payloads = nil },
		"only a delta": func(m *Manifest) {
			m.Payloads[0].Kind, m.Payloads[0].Base, m.Payloads[0].BaseSize = KindDiff, make([]byte, 32), 5
		},
		"a kind that nobody knows":     func(m *Manifest) { m.Payloads[0].Kind = 4 },
		"a full image with a base":     func(m *Manifest) { m.Payloads[0].Base = make([]byte, 32) },
		"one byte more":                func(m *Manifest) { m.Payloads[0].Size += 1 << 20 },
		"a size that nothing has":      func(m *Manifest) { m.Payloads[0].Size = sealedSegment },
		"a chunk too many":             func(m *Manifest) { m.Payloads[0].Chunks++ },
		"chunks of an odd size":        func(m *Manifest) { m.Payloads[0].ChunkSize = SegmentSize + 1 },
		"a salt too short":             func(m *Manifest) { m.Payloads[0].Commitment = m.Payloads[0].Commitment[1:] },
		"a hash of the SBOM too short": func(m *Manifest) { m.SBOM = []byte{1} },
	} {
		m := testManifest(t)
		change(&m)
		if _, err := m.Unsigned(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Unsigned: %v, want ErrFormat", name, err)
		}
		body, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		signed := sign(t, StatementManifest, Envelope{Body: body}, signing(t, 4), signing(t, 5))
		if _, err := testRoot(t).Manifest(signed); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: signed all the same: %v, want ErrFormat", name, err)
		}
	}
}

// What is signed and read is one string of bytes, which nothing else encodes.
func TestOneFormOnly(t *testing.T) {
	good := signedManifest(t, testManifest(t)).Body
	var fields map[uint64]any
	if err := cbor.Unmarshal(good, &fields); err != nil {
		t.Fatal(err)
	}
	fields[99] = uint64(1)
	unknown, err := encode(fields)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"something behind it": append(bytes.Clone(good), 0),
		"an unknown field":    unknown,
		"an indefinite map":   append(append([]byte{0xbf}, good[1:]...), 0xff),
		"cut off":             good[:len(good)-1],
		"empty":               {},
	} {
		if _, err := parseManifest(body); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
	if _, err := ParseEnvelope([]byte{0x82, 0x41, 0x01, 0xf6}); !errors.Is(err, ErrFormat) {
		t.Errorf("null for signatures: %v, want ErrFormat", err)
	}
	if _, err := ParseEnvelope(make([]byte, MaxEnvelope+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too large: %v, want ErrFormat", err)
	}
}

// Attacks: F20
func TestRootChain(t *testing.T) {
	first := testRoot(t)
	old := []key.Signing{signing(t, 1), signing(t, 2), signing(t, 3)}
	fresh := []key.Signing{signing(t, 11), signing(t, 12), signing(t, 3)}
	second, err := NewRoot(2, publics(fresh...), publics(signing(t, 5)), 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	third := second
	third.Version = 3
	same := second
	same.Version = 1
	release := []key.Signing{signing(t, 4), signing(t, 5)}
	for name, c := range map[string]struct {
		signed []byte
		want   error
	}{
		"both thresholds":              {signedRoot(t, second, old[0], old[1], fresh[0], fresh[1]), nil},
		"a key of both counts in both": {signedRoot(t, second, old[0], fresh[0], old[2]), nil},
		"one old key":                  {signedRoot(t, second, old[0], fresh[0], fresh[1]), ErrSignature},
		"one new key":                  {signedRoot(t, second, old[0], old[1], fresh[0]), ErrSignature},
		"release keys":                 {signedRoot(t, second, append(release, fresh...)...), ErrSignature},
		"a version left out":           {signedRoot(t, third, append(slices.Clone(old), fresh...)...), ErrRoot},
		"the same version":             {signedRoot(t, same, append(slices.Clone(old), fresh...)...), ErrRoot},
		"the old one again":            {signedRoot(t, first, old...), ErrRoot},
	} {
		got, err := first.Next(c.signed)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && got.Version != 2 {
			t.Errorf("%s: version %d", name, got.Version)
		}
	}
	if _, err := ParseRoot(signedRoot(t, first, old[0], old[2])); err != nil {
		t.Errorf("the first root: %v", err)
	}
	if _, err := ParseRoot(signedRoot(t, first, old[0], signing(t, 4))); !errors.Is(err, ErrSignature) {
		t.Errorf("the first root with one root key: %v, want ErrSignature", err)
	}
}

func TestRootsThatMakeNoSense(t *testing.T) {
	for name, change := range map[string]func(*Root){
		"version 0":                func(r *Root) { r.Version = 0 },
		"no keys":                  func(r *Root) { r.Keys = nil },
		"a key twice":              func(r *Root) { r.Keys[1] = r.Keys[0] },
		"keys out of order":        func(r *Root) { slices.Reverse(r.Keys) },
		"a short key":              func(r *Root) { r.Keys[0] = r.Keys[0][1:] },
		"a threshold of 0":         func(r *Root) { r.ReleaseThreshold = 0 },
		"more than there are":      func(r *Root) { r.RootThreshold = 4 },
		"one id twice":             func(r *Root) { r.RootKeys[1] = r.RootKeys[0] },
		"an id of no key":          func(r *Root) { r.ReleaseKeys[0] = KeyID{} },
		"a floor but no ceiling":   func(r *Root) { r.Floor = 1 },
		"a floor over the ceiling": func(r *Root) { r.Floor, r.Ceiling = 2, 1 },
	} {
		r := testRoot(t)
		change(&r)
		if _, err := r.Unsigned(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func TestDowngradesThatMakeNoSense(t *testing.T) {
	for name, d := range map[string]Downgrade{
		"for ever and for all": {Product: product, From: 2, To: 1},
		"upwards":              {Product: product, From: 1, To: 2, Expires: 9},
		"too many devices":     {Product: product, From: 2, To: 1, Devices: strings.Fields(strings.Repeat("roof ", MaxDevices+1))},
		"no product":           {From: 2, To: 1, Expires: 9},
	} {
		if _, err := d.Unsigned(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
	d := Downgrade{Product: product, From: 2, To: 1, Expires: 9, Devices: strings.Fields(strings.Repeat("roof ", MaxDevices))}
	e, err := d.Unsigned()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testRoot(t).Downgrade(sign(t, StatementManifest, e, signing(t, 4), signing(t, 5))); !errors.Is(err, ErrSignature) {
		t.Errorf("signed as a manifest: %v, want ErrSignature", err)
	}
	e.Signatures = nil
	got, err := testRoot(t).Downgrade(sign(t, StatementDowngrade, e, signing(t, 4), signing(t, 5)))
	if diff := cmp.Diff(d, got); err != nil || diff != "" {
		t.Errorf("%v (-put +got):\n%s", err, diff)
	}
}
