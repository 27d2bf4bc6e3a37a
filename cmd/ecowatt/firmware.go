package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/firmware"
	"ecowatt/key"
)

func (a *app) newFirmwareCommand() *cobra.Command {
	return group("firmware", "Build, sign and check releases of the agent",
		group("root", "Make, change and publish the root of trust",
			a.newFirmwareRootInitCommand(),
			a.newFirmwareRootRotateCommand(),
			a.newFirmwareRootPushCommand(),
		),
		a.newFirmwareKeygenCommand(),
		a.newFirmwareBuildCommand(),
		a.newFirmwareSignCommand(),
		a.newFirmwareDowngradeCommand(),
		a.newFirmwareInspectCommand(),
		a.newFirmwareVerifyCommand(),
		a.newFirmwarePushCommand(),
		a.newFirmwareListCommand(),
		a.newFirmwareShowCommand(),
		a.newFirmwareRemoveCommand(),
	)
}

// rootInfo is a root of trust as JSON.
type rootInfo struct {
	Version          uint64   `json:"version"`
	ID               string   `json:"id"`
	RootKeys         []string `json:"root_keys"`
	RootThreshold    uint64   `json:"root_threshold"`
	ReleaseKeys      []string `json:"release_keys"`
	ReleaseThreshold uint64   `json:"release_threshold"`
	Floor            uint64   `json:"floor"`
	Ceiling          uint64   `json:"ceiling"`
	SignedBy         []string `json:"signed_by"`
}

// releaseInfo is a release as JSON.
type releaseInfo struct {
	ID            string        `json:"id"`
	Product       string        `json:"product"`
	Hardware      []string      `json:"hardware"`
	Version       string        `json:"version"`
	Release       uint64        `json:"release"`
	Security      uint64        `json:"security"`
	Size          uint64        `json:"size"`
	Image         string        `json:"image"`
	Payloads      []payloadInfo `json:"payloads"`
	MinFrom       uint64        `json:"min_from"`
	Created       *time.Time    `json:"created"`
	Expires       *time.Time    `json:"expires"`
	MinRoot       uint64        `json:"min_root"`
	DowngradeFrom []uint64      `json:"downgrade_from"`
	MinProtocol   uint64        `json:"min_protocol"`
	SBOM          string        `json:"sbom"`
	SignedBy      []string      `json:"signed_by"`
}

type payloadInfo struct {
	Kind     string `json:"kind"`
	Size     uint64 `json:"size"`
	Chunks   uint64 `json:"chunks"`
	Artifact string `json:"artifact"`
	Table    string `json:"table"`
	Base     string `json:"base"`
	Window   uint64 `json:"window"`
}

// downgradeInfo is a permission to go back, as JSON.
type downgradeInfo struct {
	ID       string     `json:"id"`
	Product  string     `json:"product"`
	From     uint64     `json:"from"`
	To       uint64     `json:"to"`
	Expires  *time.Time `json:"expires"`
	Devices  []string   `json:"devices"`
	SignedBy []string   `json:"signed_by"`
}

// statementInfo is what inspect and sign tell of a file: one of them is there.
type statementInfo struct {
	Root      *rootInfo      `json:"root,omitempty"`
	Release   *releaseInfo   `json:"release,omitempty"`
	Downgrade *downgradeInfo `json:"downgrade,omitempty"`
}

// statementOf reads what an envelope says, whoever has signed it.
func statementOf(e firmware.Envelope) (firmware.Statement, statementInfo, error) {
	m, err := firmware.ReadManifest(e)
	if err == nil {
		info := showRelease(m, e)
		return firmware.StatementManifest, statementInfo{Release: &info}, nil
	}
	if r, err := firmware.ReadRoot(e); err == nil {
		info := showRoot(r, e)
		return firmware.StatementRoot, statementInfo{Root: &info}, nil
	}
	if d, err := firmware.ReadDowngrade(e); err == nil {
		info := showDowngrade(d, e)
		return firmware.StatementDowngrade, statementInfo{Downgrade: &info}, nil
	}
	return "", statementInfo{}, errors.New("it is neither a manifest nor a root of trust nor a downgrade")
}

func idText(e firmware.Envelope) string {
	id := e.ID()
	return hex.EncodeToString(id[:])
}

func showRoot(r firmware.Root, e firmware.Envelope) rootInfo {
	return rootInfo{
		Version: r.Version, ID: idText(e), RootKeys: keyTexts(r.RootKeys), RootThreshold: r.RootThreshold,
		ReleaseKeys: keyTexts(r.ReleaseKeys), ReleaseThreshold: r.ReleaseThreshold, Floor: r.Floor, Ceiling: r.Ceiling,
		SignedBy: keyTexts(e.Signers(firmware.StatementRoot)),
	}
}

func showRelease(m firmware.Manifest, e firmware.Envelope) releaseInfo {
	info := releaseInfo{
		ID: idText(e), Product: productText(m.Product), Hardware: m.Hardware, Version: m.Version, Release: m.Release,
		Security: m.Security, Size: m.Size, Image: hex.EncodeToString(m.Image[:]), MinFrom: m.MinFrom, Created: timeOf(m.Created),
		Expires: timeOf(m.Expires), MinRoot: m.MinRoot, DowngradeFrom: append([]uint64{}, m.DowngradeFrom...), MinProtocol: m.MinProtocol,
		SBOM: hex.EncodeToString(m.SBOM), SignedBy: keyTexts(e.Signers(firmware.StatementManifest)),
	}
	for _, p := range m.Payloads {
		info.Payloads = append(info.Payloads, payloadInfo{
			Kind: kindText(p.Kind), Size: p.Size, Chunks: p.Chunks, Artifact: hex.EncodeToString(p.Artifact[:]),
			Table: hex.EncodeToString(p.Table[:]), Base: hex.EncodeToString(p.Base), Window: p.Window,
		})
	}
	return info
}

func showDowngrade(d firmware.Downgrade, e firmware.Envelope) downgradeInfo {
	return downgradeInfo{
		ID: idText(e), Product: productText(d.Product), From: d.From, To: d.To, Expires: timeOf(d.Expires),
		Devices: append([]string{}, d.Devices...), SignedBy: keyTexts(e.Signers(firmware.StatementDowngrade)),
	}
}

func keyTexts(ids []firmware.KeyID) []string {
	texts := []string{}
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return texts
}

func timeOf(s int64) *time.Time {
	if s == 0 {
		return nil
	}
	t := time.Unix(s, 0).UTC()
	return &t
}

func kindText(k firmware.Kind) string {
	switch k {
	case firmware.KindFull:
		return "full"
	case firmware.KindPatch:
		return "patch"
	case firmware.KindDiff:
		return "diff"
	}
	return fmt.Sprintf("kind %d", k)
}

// productText is the text of a product id, in the manner of RFC 9562.
func productText(id firmware.ProductID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

func parseProduct(text string) (firmware.ProductID, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(firmware.ProductID{}) {
		return firmware.ProductID{}, usagef("--product: %q has not 32 hexadecimal digits", text)
	}
	return firmware.ProductID(b), nil
}

// print tells of a statement.
func (s statementInfo) print(w io.Writer) error {
	t := newTable("", "<")
	t.rows, t.left = nil, []bool{true, true}
	add := func(name, value string) {
		if value != "" && value != "0" {
			t.add(name, value)
		}
	}
	number := func(name string, n uint64) { add(name, fmt.Sprint(n)) }
	var signed []string
	switch {
	case s.Root != nil:
		r := s.Root
		number("root of trust", r.Version)
		add("id", r.ID)
		add("root keys", fmt.Sprintf("%d of %s", r.RootThreshold, strings.Join(r.RootKeys, ", ")))
		add("release keys", fmt.Sprintf("%d of %s", r.ReleaseThreshold, strings.Join(r.ReleaseKeys, ", ")))
		number("floor", r.Floor)
		number("ceiling", r.Ceiling)
		signed = r.SignedBy
	case s.Downgrade != nil:
		d := s.Downgrade
		add("downgrade", fmt.Sprintf("from release %d to %d", d.From, d.To))
		add("id", d.ID)
		add("product", d.Product)
		add("expires", dayOf(d.Expires))
		add("devices", strings.Join(d.Devices, ", "))
		signed = d.SignedBy
	default:
		r := s.Release
		add("release", fmt.Sprintf("%d (%s)", r.Release, r.Version))
		add("id", r.ID)
		add("product", r.Product)
		add("hardware", strings.Join(r.Hardware, ", "))
		t.add("security", fmt.Sprint(r.Security))
		add("image", fmt.Sprintf("%d bytes, %s", r.Size, r.Image))
		number("updates from", r.MinFrom)
		add("created", dayOf(r.Created))
		add("expires", dayOf(r.Expires))
		number("needs root", r.MinRoot)
		number("needs protocol", r.MinProtocol)
		add("back from", strings.Trim(fmt.Sprint(r.DowngradeFrom), "[]"))
		add("bill of materials", r.SBOM)
		signed = r.SignedBy
	}
	add("names as signers", orMissing(strings.Join(signed, ", ")))
	if err := t.render(w); err != nil || s.Release == nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return payloadTable(*s.Release).render(w)
}

func payloadTable(r releaseInfo) *table {
	t := newTable("PAYLOAD<", "BYTES", "OF IMAGE", "CHUNKS", "WINDOW", "BASE<")
	for _, p := range r.Payloads {
		base := p.Base
		if len(base) > 16 {
			base = base[:16] + "…"
		}
		t.add(p.Kind, fmt.Sprint(p.Size), fmt.Sprintf("%.1f %%", 100*float64(p.Size)/float64(r.Size)), fmt.Sprint(p.Chunks), fmt.Sprint(p.Window), orMissing(base))
	}
	return t
}

func dayOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

// line tells of a statement in a few words.
func (s statementInfo) line() (what string, signed []string) {
	switch {
	case s.Root != nil:
		return fmt.Sprintf("root of trust %d", s.Root.Version), s.Root.SignedBy
	case s.Downgrade != nil:
		return fmt.Sprintf("downgrade from release %d to %d", s.Downgrade.From, s.Downgrade.To), s.Downgrade.SignedBy
	}
	return fmt.Sprintf("release %d (%s)", s.Release.Release, s.Release.Version), s.Release.SignedBy
}

// maxBundle bounds the files of a bundle, in bytes: as many as a manifest can name.
const maxBundle = 2 * firmware.MaxPayloads * 2 * firmware.MaxImage

// signedFile is a file that sign, inspect and verify were given: a bundle, or an
// envelope alone.
type signedFile struct {
	*os.File
	name     string
	envelope firmware.Envelope
	bundle   *firmware.BundleReader // nil for an envelope alone
}

// openSigned opens a file and reads it up to the files of the release. The caller
// closes it.
func openSigned(name string) (*signedFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	s := &signedFile{File: f, name: name}
	if err := s.read(); err != nil {
		_ = f.Close() // it was only read
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *signedFile) read() error {
	head, err := io.ReadAll(io.LimitReader(s, firmware.MaxEnvelope+1))
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return errors.New("it is empty")
	}
	if head[0] == envelopeBegin {
		s.envelope, err = firmware.ParseEnvelope(head)
		return err
	}
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if s.bundle, err = firmware.ReadBundle(s, maxBundle); err != nil {
		return err
	}
	s.envelope = s.bundle.Envelope
	return nil
}

// envelopeBegin is the first byte of an envelope: a list of two (RFC 8949).
const envelopeBegin = 0x82

// replace writes what the file is to be beside it, and then in its place.
func (s *signedFile) replace(e firmware.Envelope) error {
	info, err := s.Stat()
	if err != nil {
		return err
	}
	beside := s.name + ".new"
	if err := writeNew(beside, info.Mode().Perm(), func(w io.Writer) error { return s.write(w, e) }); err != nil {
		return err
	}
	return os.Rename(beside, s.name)
}

func (s *signedFile) write(w io.Writer, e firmware.Envelope) error {
	if s.bundle == nil {
		b, err := e.Encode()
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	err := firmware.WriteBundle(w, firmware.Bundle{Envelope: e, Content: s.bundle.Content, Open: func(firmware.File) (io.Reader, error) {
		_, content, err := s.bundle.Next() // they come in the same order
		return content, err
	}})
	if err != nil {
		return err
	}
	return s.end()
}

// end makes sure that the bundle is whole.
func (s *signedFile) end() error {
	for {
		_, _, err := s.bundle.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *app) newFirmwareSignCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign a release, a root of trust or a downgrade",
		Long: `Add signatures to FILE: a bundle that 'ecowatt firmware build' made, a root of trust
or a downgrade. Several people sign one after the other. What is signed is checked
as a whole before.`,
		Example: "  ecowatt firmware sign agent-12.ewfw --key release-1.key",
		Args:    arguments("FILE"),
	}
	files, from, asJSON := keysFlag(c), phraseFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(*files) == 0 {
			return usagef("--key is missing: it names who signs")
		}
		f, err := openSigned(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		kind, _, err := statementOf(f.envelope)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		keys, err := a.readSigningKeys(cmd.Context(), from, *files)
		if err != nil {
			return err
		}
		e, err := signAll(kind, f.envelope, keys)
		if err != nil {
			return err
		}
		if err := f.replace(e); err != nil {
			return err
		}
		_, info, err := statementOf(e)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, info)
		}
		what, signed := info.line()
		_, err = fmt.Fprintf(a.stdout, "%s carries signatures of %s.\n", what, strings.Join(signed, ", "))
		return err
	}
	return c
}

// signAll returns e with a signature of each key. The slices of e stay as they are.
func signAll(kind firmware.Statement, e firmware.Envelope, keys []key.Signing) (firmware.Envelope, error) {
	e.Signatures = slices.Clone(e.Signatures)
	for _, k := range keys {
		if err := e.Sign(kind, k); err != nil {
			return e, err
		}
	}
	if len(e.Signatures) > firmware.MaxSignatures {
		return e, fmt.Errorf("%d signatures; there may be %d", len(e.Signatures), firmware.MaxSignatures)
	}
	return e, nil
}

func (a *app) newFirmwareInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a release, a root of trust or a downgrade says",
		Long: `Show what FILE says: a bundle, a root of trust or a downgrade. Whose signatures it
carries is shown as it says; 'ecowatt firmware verify' verifies them.`,
		Example: "  ecowatt firmware inspect agent-12.ewfw",
		Args:    arguments("FILE"),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		f, err := openSigned(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		_, info, err := statementOf(f.envelope)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *asJSON {
			return printJSON(a.stdout, info)
		}
		return info.print(a.stdout)
	}
	return c
}
