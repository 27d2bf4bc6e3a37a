package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/wire"
)

// verification is what firmware verify is asked for.
type verification struct {
	roots, bases, downgrades []string
	target                   firmware.Target
	product                  string
}

// verifiedInfo is what firmware verify has found good, as JSON.
type verifiedInfo struct {
	Release  releaseInfo       `json:"release"`
	Root     uint64            `json:"root"`
	Payloads []verifiedPayload `json:"payloads"`
}

type verifiedPayload struct {
	Kind string `json:"kind"`
	Base string `json:"base"`
	Made bool   `json:"made"` // the image was made of it; false where the base is not here
}

func (a *app) newFirmwareVerifyCommand() *cobra.Command {
	var q verification
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a release as a device would",
		Long: `Check a bundle as a device would: the roots of trust in their order, the signatures,
what the release is for, each chunk against its table, and the image that each payload
makes. A payload with changes needs its base, see --base; without it, its chunks are
checked only. Without --hardware, --running and --security, a device is taken that the
release is for.`,
		Example: "  ecowatt firmware verify agent-12.ewfw --root firmware-root.1 --base ecowatt-agent-1.3.0",
		Args:    arguments("FILE"),
	}
	f := c.Flags()
	f.StringArrayVar(&q.roots, "root", nil, "root of trust that the device has; given again: those that follow, in order")
	f.StringArrayVar(&q.bases, "base", nil, "file of an image that the device may run; may be given again")
	f.StringArrayVar(&q.downgrades, "downgrade", nil, "file of a downgrade that comes with the release; may be given again")
	f.StringVar(&q.product, "product", productText(firmware.ProductID([]byte(ecowatt.Product))), "product that the device is")
	f.StringVar(&q.target.Hardware, "hardware", "", "its board revision (default the first of the release)")
	f.StringVar(&q.target.Device, "device", "", "its id, for downgrades that name devices")
	f.Uint64Var(&q.target.Release, "running", 0, "release that it runs (default the least that the release updates)")
	f.Uint64Var(&q.target.Security, "security", 0, "least security version that may run on it")
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(q.roots) == 0 {
			return usagef("--root is missing: the root of trust that the device has")
		}
		found, err := q.verify(args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *asJSON {
			return printJSON(a.stdout, found)
		}
		for _, p := range found.Payloads {
			what := "makes the image"
			if !p.Made {
				what = "is whole, but its base is not here: " + p.Base
			}
			if _, err := fmt.Fprintf(a.stdout, "payload %s %s\n", p.Kind, what); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(a.stdout, "Release %d (%s) is good under root of trust %d.\n", found.Release.Release, found.Release.Version, found.Root)
		return err
	}
	return c
}

// verify makes the checks of a device, in their order.
func (q verification) verify(file string) (verifiedInfo, error) {
	root, err := walk(q.roots)
	if err != nil {
		return verifiedInfo{}, err
	}
	f, err := openBundle(file)
	if err != nil {
		return verifiedInfo{}, err
	}
	defer f.Close()
	m, err := root.Manifest(f.envelope)
	if err != nil {
		return verifiedInfo{}, err
	}
	if err := q.fits(m, root); err != nil {
		return verifiedInfo{}, err
	}
	tables, err := f.tables()
	if err != nil {
		return verifiedInfo{}, err
	}
	images, err := imagesOf(q.bases)
	if err != nil {
		return verifiedInfo{}, err
	}
	again, err := openBundle(file) // the tables stand behind the artifacts
	if err != nil {
		return verifiedInfo{}, err
	}
	defer again.Close()
	found := verifiedInfo{Release: showRelease(m, f.envelope), Root: root.Version}
	for {
		at, content, err := again.bundle.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		i := slices.IndexFunc(m.Payloads, func(p firmware.Payload) bool { return p.Artifact == at.Name })
		if i < 0 {
			continue // a table
		}
		p := m.Payloads[i]
		made, err := makes(again.bundle, p, content, tables[p.Table], images)
		if err != nil {
			return found, fmt.Errorf("payload %d (%s): %w", i, kindText(p.Kind), err)
		}
		found.Payloads = append(found.Payloads, verifiedPayload{Kind: kindText(p.Kind), Base: hex.EncodeToString(p.Base), Made: made})
	}
}

// walk verifies roots of trust from the first, which is taken as it is, to the last.
func walk(files []string) (root firmware.Root, err error) {
	for i, file := range files {
		if i == 0 {
			root, err = readRoot(file)
			if err != nil {
				return root, err
			}
			continue
		}
		data, err := readFile(file, firmware.MaxEnvelope)
		if err != nil {
			return root, err
		}
		if root, err = root.Next(data); err != nil {
			return root, fmt.Errorf("%s: %w", file, err)
		}
	}
	return root, nil
}

func openBundle(name string) (*signedFile, error) {
	f, err := openSigned(name)
	if err == nil && f.bundle == nil {
		_ = f.Close() // it was only read
		return nil, errors.New("it is no bundle but an envelope alone")
	}
	return f, err
}

// fits holds the manifest against the device.
func (q verification) fits(m firmware.Manifest, root firmware.Root) (err error) {
	t := q.target
	if t.Product, err = parseProduct(q.product); err != nil {
		return err
	}
	if t.Hardware == "" {
		t.Hardware = m.Hardware[0]
	}
	if t.Release == 0 {
		t.Release = m.MinFrom
	}
	t.Protocol, t.SlotSize, t.Now = wire.Version, firmware.MaxImage, time.Now().Unix()
	var downgrades []firmware.Downgrade
	for _, file := range q.downgrades {
		data, err := readFile(file, firmware.MaxEnvelope)
		if err != nil {
			return err
		}
		e, err := firmware.ParseEnvelope(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		d, err := root.Downgrade(e)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		downgrades = append(downgrades, d)
	}
	return m.Check(t, root, downgrades)
}

// tables reads the tables of chunks of a bundle, and the bundle to its end.
func (s *signedFile) tables() (map[[sha256.Size]byte]firmware.Table, error) {
	tables := map[[sha256.Size]byte]firmware.Table{}
	for {
		at, content, err := s.bundle.Next()
		if errors.Is(err, io.EOF) {
			return tables, nil
		}
		if err != nil {
			return nil, err
		}
		for _, p := range s.bundle.Manifest.Payloads {
			if p.Table != at.Name || tables[p.Table] != nil {
				continue
			}
			data, err := io.ReadAll(content)
			if err != nil {
				return nil, err
			}
			if tables[p.Table], err = firmware.ParseTable(data, p); err != nil {
				return nil, err
			}
		}
	}
}

// imagesOf reads images, by their hashes.
func imagesOf(files []string) (map[string][]byte, error) {
	images := map[string][]byte{}
	for _, file := range files {
		image, err := readImage(file)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(image)
		images[string(sum[:])] = image
	}
	return images, nil
}

// makes decrypts a payload, and checks that it makes the image; without its base
// only that it decrypts.
func makes(b *firmware.BundleReader, p firmware.Payload, artifact io.Reader, table firmware.Table, bases map[string][]byte) (made bool, err error) {
	content, err := firmware.OpenContent(b.Content, p, b.Manifest.Product)
	if err != nil {
		return false, err
	}
	plain := &plaintext{artifact: artifact, payload: p, content: content, table: table}
	base, ok := bases[string(p.Base)]
	if p.IsDelta() && !ok {
		_, err := io.Copy(io.Discard, plain)
		return false, err
	}
	var r *delta.Reader
	switch p.Kind {
	case firmware.KindPatch:
		r, err = delta.OpenPatch(plain, base, b.Manifest.Size, p.Window)
	case firmware.KindDiff:
		r, err = delta.OpenDiff(plain, bytes.NewReader(base), p.BaseSize, b.Manifest.Size, p.Window)
	case firmware.KindFull:
		r, err = delta.OpenFull(plain, b.Manifest.Size, p.Window)
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return false, err
	}
	if [sha256.Size]byte(sum.Sum(nil)) != b.Manifest.Image {
		return false, fmt.Errorf("%w: its SHA-256 is another one", delta.ErrCorrupt)
	}
	return true, nil
}

// plaintext reads the plaintext of a payload, chunk by chunk, each of which the
// table verifies first.
type plaintext struct {
	artifact io.Reader
	payload  firmware.Payload
	content  firmware.Content
	table    firmware.Table

	next   uint64 // chunk
	sealed []byte
	opened []byte
	rest   []byte // of opened
}

// Read gives the next bytes.
func (p *plaintext) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.next == p.payload.Chunks {
			return 0, io.EOF
		}
		n := int(p.payload.ChunkLength(p.next))
		p.sealed = slices.Grow(p.sealed[:0], n)[:n]
		if _, err := io.ReadFull(p.artifact, p.sealed); err != nil {
			return 0, fmt.Errorf("reading chunk %d: %w", p.next, err)
		}
		err := p.table.Verify(p.next, p.sealed)
		if err != nil {
			return 0, err
		}
		if p.opened, err = p.content.OpenChunk(p.opened[:0], p.payload, p.next, p.sealed); err != nil {
			return 0, err
		}
		p.rest, p.next = p.opened, p.next+1
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
