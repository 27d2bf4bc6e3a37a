package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/key"
)

// build is what firmware build is asked for.
type build struct {
	manifest                  firmware.Manifest // without what the images say
	product, expires, created string
	sbom, out, reproduce      string
	bases                     []string
	downgradeFrom             []int64
}

func (a *app) newFirmwareBuildCommand() *cobra.Command {
	var q build
	c := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Build a release of an image, to be signed",
		Long: `Build a release of an image: its manifest, and its payloads with their chunk
tables, encrypted under a content key of its own; for each base also what has changed
since, where that is smaller than the image. The bundle holds the content key in the
clear: it goes to the cloud, and to whoever signs or checks it.

Only content key and salts are random. --reproduce takes them from a bundle, builds it
once more, writes nothing, and says whether it is the same: so who approves a release
checks what somebody else has built.`,
		Example: "  ecowatt firmware build ecowatt-agent --version 1.4.0 --release 12 --hardware gw-1 \\\n    --base ecowatt-agent-1.3.0 --out agent-12.ewfw",
		Args:    arguments("IMAGE"),
	}
	f, m := c.Flags(), &q.manifest
	f.StringVar(&m.Version, "version", "", "version for people")
	f.Uint64Var(&m.Release, "release", 0, "number of the release, greater than all before")
	f.Uint64Var(&m.Security, "security", 0, "security version: no device goes back behind it")
	f.StringArrayVar(&m.Hardware, "hardware", nil, "board revision that it is for; may be given again")
	f.StringVar(&q.product, "product", productText(firmware.ProductID([]byte(ecowatt.Product))), "product that it is for")
	f.StringArrayVar(&q.bases, "base", nil, "file of an earlier image, to send only what has changed; may be given again")
	f.Uint64Var(&m.MinFrom, "min-from", 0, "least release that can be updated to this one")
	f.StringVar(&q.created, "created", "", "when it was made (default: not said)")
	f.StringVar(&q.expires, "expires", "", "when it is not installed any more (default: never)")
	f.Uint64Var(&m.MinRoot, "min-root", 0, "least version of the root of trust that a device must have")
	f.Int64SliceVar(&q.downgradeFrom, "downgrade-from", nil, "later release that may go back to this one; may be given again")
	f.Uint64Var(&m.MinProtocol, "min-protocol", 0, "least version of the protocol that the cloud must speak")
	f.StringVar(&q.sbom, "sbom", "", "file of the bill of materials, whose hash is kept")
	f.StringVar(&q.out, "out", "", "the bundle (default IMAGE-RELEASE.ewfw)")
	f.StringVar(&q.reproduce, "reproduce", "", "bundle to build once more and compare")
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if err := q.check(); err != nil {
			return err
		}
		if q.out == "" {
			q.out = fmt.Sprintf("%s-%d.ewfw", filepath.Base(args[0]), m.Release)
		}
		info, err := a.build(q, args[0])
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(a.stdout, info)
		case q.reproduce != "":
			_, err = fmt.Fprintf(a.stdout, "%s is release %d of this image, byte for byte.\n", q.reproduce, info.Release)
			return err
		}
		if err := payloadTable(info).render(a.stdout); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "Release %d is %s. Sign it: ecowatt firmware sign %s --key KEY\n", info.Release, q.out, q.out)
		return err
	}
	return c
}

// check completes the manifest from the flags.
func (q *build) check() (err error) {
	m := &q.manifest
	switch {
	case m.Version == "":
		return usagef("--version is missing")
	case m.Release == 0:
		return usagef("--release is missing: a number greater than all before")
	case len(m.Hardware) == 0:
		return usagef("--hardware is missing: a board revision, as in the agent's settings")
	case q.reproduce != "" && q.out != "":
		return usagef("--reproduce writes no file: leave out --out")
	}
	m.Format = 1
	if m.Product, err = parseProduct(q.product); err != nil {
		return err
	}
	for _, n := range q.downgradeFrom {
		if n <= 0 {
			return usagef("--downgrade-from: %d is no release", n)
		}
		m.DowngradeFrom = append(m.DowngradeFrom, uint64(n))
	}
	for _, t := range []struct {
		flag, text string
		to         *int64
	}{{"--created", q.created, &m.Created}, {"--expires", q.expires, &m.Expires}} {
		if t.text == "" {
			continue
		}
		at, err := parseTime(t.flag, t.text)
		if err != nil {
			return err
		}
		*t.to = at.Unix()
	}
	return nil
}

// build makes the bundle and writes it, or compares it with the one to reproduce.
func (a *app) build(q build, image string) (releaseInfo, error) {
	if q.reproduce == "" {
		if err := mustBeNew(q.out); err != nil {
			return releaseInfo{}, err
		}
	}
	sources, err := a.sources(&q, image)
	if err != nil {
		return releaseInfo{}, err
	}
	if q.reproduce != "" {
		return q.again(sources)
	}
	k, err := key.NewContent(rand.Reader)
	if err != nil {
		return releaseInfo{}, fmt.Errorf("making a content key: %w", err)
	}
	e, files, err := q.pack(sources, k, rand.Reader)
	if err != nil {
		return releaseInfo{}, err
	}
	err = writeNew(q.out, 0o600, func(w io.Writer) error {
		return firmware.WriteBundle(w, firmware.Bundle{Envelope: e, Content: k, Open: func(f firmware.File) (io.Reader, error) {
			return bytes.NewReader(files[f]), nil
		}})
	})
	if err != nil {
		return releaseInfo{}, err
	}
	m, err := firmware.ReadManifest(e)
	return showRelease(m, e), err
}

// sources makes the plaintexts of the payloads, the full image last, and writes
// down in the manifest what it is.
func (a *app) sources(q *build, image string) ([]firmware.Source, error) {
	target, err := readImage(image)
	if err != nil {
		return nil, err
	}
	q.manifest.Size, q.manifest.Image = uint64(len(target)), sha256.Sum256(target)
	if q.sbom != "" {
		bill, err := readImage(q.sbom)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(bill)
		q.manifest.SBOM = sum[:]
	}
	full, err := delta.Full(target)
	if err != nil {
		return nil, err
	}
	var sources []firmware.Source
	for _, file := range q.bases {
		base, err := readImage(file)
		if err != nil {
			return nil, err
		}
		s, err := smaller(base, target)
		switch {
		case err != nil:
			return nil, err
		case bytes.Equal(base, target):
			return nil, usagef("--base: %s is the image itself", file)
		case len(s.Plain) >= len(full):
			fmt.Fprintf(a.stderr, "What has changed since %s is not smaller than the image, and left out.\n", file)
			continue
		}
		sources = append(sources, s)
	}
	return append(sources, firmware.Source{Kind: firmware.KindFull, Plain: full, Window: delta.FullWindow}), nil
}

// smaller is the smaller way from a base to an image.
func smaller(base, target []byte) (firmware.Source, error) {
	sum := sha256.Sum256(base)
	diff, err := delta.Diff(base, target)
	if err != nil {
		return firmware.Source{}, err
	}
	patch, window, err := delta.Patch(base, target)
	if err != nil {
		return firmware.Source{}, err
	}
	s := firmware.Source{Kind: firmware.KindDiff, Plain: diff, Base: sum[:], BaseSize: uint64(len(base)), Window: delta.DiffWindow}
	if len(patch) < len(diff) {
		s.Kind, s.Plain, s.Window = firmware.KindPatch, patch, window
	}
	return s, nil
}

func readImage(name string) ([]byte, error) {
	data, err := readFile(name, firmware.MaxImage)
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return data, err
}

// pack seals the payloads and returns the manifest, unsigned, and the files.
func (q *build) pack(sources []firmware.Source, k key.Content, random io.Reader) (firmware.Envelope, map[firmware.File][]byte, error) {
	m, files := q.manifest, map[firmware.File][]byte{}
	for _, s := range sources {
		p, err := firmware.Pack(s, k, m.Product, random)
		if err != nil {
			return firmware.Envelope{}, nil, err
		}
		m.Payloads = append(m.Payloads, p.Payload)
		files[firmware.File{Name: p.Payload.Artifact, Size: p.Payload.Size}] = p.Artifact
		files[firmware.File{Name: p.Payload.Table, Size: p.Payload.TableSize()}] = p.Table
	}
	e, err := m.Unsigned()
	return e, files, err
}

// again builds with the content key and the salts of a bundle, and compares. What
// it builds is kept nowhere: other bytes under the same key and salt would give
// both away.
func (q *build) again(sources []firmware.Source) (releaseInfo, error) {
	f, err := openSigned(q.reproduce)
	if err != nil {
		return releaseInfo{}, err
	}
	defer f.Close()
	if f.bundle == nil {
		return releaseInfo{}, fmt.Errorf("%s is no bundle", q.reproduce)
	}
	theirs := f.bundle.Manifest
	if len(theirs.Payloads) != len(sources) {
		return releaseInfo{}, fmt.Errorf("%s has %s, this build has %d", q.reproduce, countOf(len(theirs.Payloads), "payload"), len(sources))
	}
	var salts []byte
	for _, p := range theirs.Payloads {
		salts = append(salts, p.Commitment[:firmware.SaltSize]...)
	}
	e, _, err := q.pack(sources, f.bundle.Content, bytes.NewReader(salts))
	if err != nil {
		return releaseInfo{}, err
	}
	ours, err := firmware.ReadManifest(e)
	if err != nil {
		return releaseInfo{}, err
	}
	if e.ID() != f.envelope.ID() {
		return releaseInfo{}, fmt.Errorf("%s is another release: %s", q.reproduce, difference(theirs, ours))
	}
	if err := f.end(); err != nil { // its files are what the manifest says
		return releaseInfo{}, fmt.Errorf("%s: %w", q.reproduce, err)
	}
	return showRelease(theirs, f.envelope), nil
}

// difference names what differs first between two manifests.
func difference(theirs, ours firmware.Manifest) string {
	if theirs.Image != ours.Image {
		return fmt.Sprintf("its image is %s, this one is %s", hex.EncodeToString(theirs.Image[:]), hex.EncodeToString(ours.Image[:]))
	}
	for i, p := range theirs.Payloads {
		if p.Artifact != ours.Payloads[i].Artifact {
			return fmt.Sprintf("payload %d (%s) has other bytes; was it built with the same bases, by the same version of ecowatt?", i, kindText(p.Kind))
		}
	}
	return "what the manifest says beside the images differs; compare the flags with 'ecowatt firmware inspect'"
}
