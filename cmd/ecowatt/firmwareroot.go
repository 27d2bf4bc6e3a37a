package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/firmware"
	"ecowatt/key"
)

// rootFile is the name of the file of a root of trust, before its version.
const rootFile = "firmware-root."

func (a *app) newFirmwareRootInitCommand() *cobra.Command {
	var q newRoot
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the first root of trust, with its keys",
		Long: `Make the first root of trust, firmware-root.1, with its keys: root keys, which sign
roots of trust and nothing else, and release keys, which sign releases. Each key is
a file of its own under a passphrase of its own: give the root keys to different
people, and keep them offline. Existing files are never overwritten.`,
		Example: "  ecowatt firmware root init --dir keys",
		Args:    noArguments,
	}
	c.Flags().StringVar(&q.dir, "dir", ".", "folder of the files, made where there is none")
	c.Flags().IntVar(&q.rootKeys, "root-keys", 3, "how many root keys")
	c.Flags().IntVar(&q.rootThreshold, "root-threshold", 2, "how many of them have to sign a root")
	c.Flags().IntVar(&q.releaseKeys, "release-keys", 1, "how many release keys")
	c.Flags().IntVar(&q.releaseThreshold, "release-threshold", 1, "how many of them have to sign a release")
	q.from = phraseFlag(c)
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := q.check(); err != nil {
			return err
		}
		made, err := a.initRoot(cmd, q)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, made)
		}
		t := newTable("KEY<", "ROLE<", "FILE<")
		for _, k := range made.Keys {
			t.add(k.ID, k.Role, k.File)
		}
		if err := t.render(a.stdout); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "The root of trust is %s. Publish it: ecowatt firmware root push %s\n", made.File, made.File)
		return err
	}
	return c
}

// newRoot is what root init is asked for.
type newRoot struct {
	dir                           string
	rootKeys, rootThreshold       int
	releaseKeys, releaseThreshold int
	from                          *phrases
}

func (q newRoot) check() error {
	for _, n := range []struct {
		flag            string
		keys, threshold int
	}{{"root", q.rootKeys, q.rootThreshold}, {"release", q.releaseKeys, q.releaseThreshold}} {
		if n.keys < 1 || n.keys > firmware.MaxKeys-1 {
			return usagef("--%s-keys: %d is not within 1 and %d", n.flag, n.keys, firmware.MaxKeys-1)
		}
		if n.threshold < 1 || n.threshold > n.keys {
			return usagef("--%s-threshold: %d is not within 1 and %d, the number of keys", n.flag, n.threshold, n.keys)
		}
	}
	if q.rootKeys+q.releaseKeys > firmware.MaxKeys {
		return usagef("--release-keys: %d keys in all; there may be %d", q.rootKeys+q.releaseKeys, firmware.MaxKeys)
	}
	return nil
}

// rootMade is what root init has made, as JSON.
type rootMade struct {
	File string    `json:"file"`
	Root rootInfo  `json:"root"`
	Keys []keyInfo `json:"keys"`
}

// initRoot makes all files, or none.
func (a *app) initRoot(cmd *cobra.Command, q newRoot) (made rootMade, err error) {
	made.File = filepath.Join(q.dir, rootFile+"1")
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return made, err
	}
	if err := mustBeNew(made.File); err != nil {
		return made, err
	}
	defer func() {
		if err == nil {
			return
		}
		for _, k := range made.Keys { // keys that no root names are good for nothing
			err = errors.Join(err, os.Remove(k.File), os.Remove(k.Public))
		}
	}()
	draw := func(role string, n int) (keys []key.Signing, public []ed25519.PublicKey, err error) {
		for i := range n {
			name := filepath.Join(q.dir, fmt.Sprintf("%s-%d", role, i+1))
			k, err := a.newSigningKey(cmd.Context(), q.from, name)
			if err != nil {
				return nil, nil, err
			}
			made.Keys = append(made.Keys, infoOf(k, role, name))
			keys, public = append(keys, k), append(public, k.Public())
		}
		return keys, public, nil
	}
	keys, roots, err := draw("root", q.rootKeys)
	if err != nil {
		return made, err
	}
	_, releases, err := draw("release", q.releaseKeys)
	if err != nil {
		return made, err
	}
	r, err := firmware.NewRoot(1, roots, releases, q.rootThreshold, q.releaseThreshold)
	if err != nil {
		return made, err
	}
	e, err := writeRoot(made.File, r, keys)
	made.Root = showRoot(r, e)
	return made, err
}

// writeRoot signs a root of trust and writes it.
func writeRoot(file string, r firmware.Root, keys []key.Signing) (firmware.Envelope, error) {
	e, err := r.Unsigned()
	if err != nil {
		return e, err
	}
	if e, err = signAll(firmware.StatementRoot, e, keys); err != nil {
		return e, err
	}
	b, err := e.Encode()
	if err != nil {
		return e, err
	}
	return e, writeNew(file, 0o644, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// rotationOfRoot is what root rotate is asked for.
type rotationOfRoot struct {
	out                             string
	addRoot, addRelease, remove     []string
	rootThreshold, releaseThreshold int
	floor, ceiling                  uint64
	keys                            *[]string
	from                            *phrases
}

func (a *app) newFirmwareRootRotateCommand() *cobra.Command {
	var q rotationOfRoot
	c := &cobra.Command{
		Use:   "rotate ROOT",
		Short: "Make the root of trust that follows ROOT",
		Long: `Make the root of trust that follows ROOT, the file of the newest one: with keys
added and removed, other thresholds, or releases taken back. It counts when enough
root keys of ROOT and enough of its own have signed it; who is not here signs later,
with 'ecowatt firmware sign'.

A stolen release key may have signed a release with a number that nothing exceeds.
--ceiling takes all releases above it back, and a device that runs one of them counts
as if it ran --floor. Both are kept by the roots that follow, until they are changed.`,
		Example: "  ecowatt firmware root rotate firmware-root.1 --remove 00112233445566ff \\\n    --add-release release-2.pub --key root-1.key --key root-2.key",
		Args:    arguments("ROOT"),
	}
	c.Flags().StringVar(&q.out, "out", "", "the new file (default firmware-root.N beside ROOT)")
	c.Flags().StringArrayVar(&q.addRoot, "add-root", nil, "file with the public half of a new root key; may be given again")
	c.Flags().StringArrayVar(&q.addRelease, "add-release", nil, "file with the public half of a new release key; may be given again")
	c.Flags().StringArrayVar(&q.remove, "remove", nil, "id of a key that counts no more; may be given again")
	c.Flags().IntVar(&q.rootThreshold, "root-threshold", 0, "how many root keys have to sign (default as before)")
	c.Flags().IntVar(&q.releaseThreshold, "release-threshold", 0, "how many release keys have to sign (default as before)")
	c.Flags().Uint64Var(&q.floor, "floor", 0, "release that counts where one above the ceiling runs (default as before)")
	c.Flags().Uint64Var(&q.ceiling, "ceiling", 0, "last release that counts; 0 for none (default as before)")
	q.keys, q.from = keysFlag(c), phraseFlag(c)
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		before, err := readRoot(args[0])
		if err != nil {
			return err
		}
		if q.out == "" {
			q.out = filepath.Join(filepath.Dir(args[0]), fmt.Sprint(rootFile, before.Version+1))
		}
		if err := mustBeNew(q.out); err != nil {
			return err
		}
		next, err := q.next(before, cmd.Flags().Changed)
		if err != nil {
			return err
		}
		keys, err := a.readSigningKeys(cmd.Context(), q.from, *q.keys)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if id := firmware.IDOf(k.Public()); !slices.Contains(before.RootKeys, id) && !slices.Contains(next.RootKeys, id) {
				return fmt.Errorf("%v is a root key neither of version %d nor of %d", id, before.Version, next.Version)
			}
		}
		e, err := writeRoot(q.out, next, keys)
		if err != nil {
			return err
		}
		return a.tellRotation(before, next, e, q.out, *asJSON)
	}
	return c
}

// readRoot reads the file of a root of trust that is signed by its own keys.
func readRoot(file string) (firmware.Root, error) {
	data, err := readFile(file, firmware.MaxEnvelope)
	if err != nil {
		return firmware.Root{}, err
	}
	r, err := firmware.ParseRoot(data)
	if err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// next is the root that follows.
func (q rotationOfRoot) next(before firmware.Root, given func(flag string) bool) (firmware.Root, error) {
	roots, releases := publicKeys(before, before.RootKeys), publicKeys(before, before.ReleaseKeys)
	for _, text := range q.remove {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(firmware.KeyID{}) {
			return firmware.Root{}, usagef("--remove: %q is not the id of a key: 16 hexadecimal digits", text)
		}
		id := firmware.KeyID(b)
		of := func(k ed25519.PublicKey) bool { return firmware.IDOf(k) == id }
		if !slices.ContainsFunc(roots, of) && !slices.ContainsFunc(releases, of) {
			return firmware.Root{}, usagef("--remove: %v is no key of version %d", id, before.Version)
		}
		roots, releases = slices.DeleteFunc(roots, of), slices.DeleteFunc(releases, of)
	}
	for _, add := range []struct {
		files []string
		to    *[]ed25519.PublicKey
	}{{q.addRoot, &roots}, {q.addRelease, &releases}} {
		keys, err := readPublicKeys(add.files)
		if err != nil {
			return firmware.Root{}, err
		}
		*add.to = append(*add.to, keys...)
	}
	if q.rootThreshold == 0 {
		q.rootThreshold = int(before.RootThreshold)
	}
	if q.releaseThreshold == 0 {
		q.releaseThreshold = int(before.ReleaseThreshold)
	}
	next, err := firmware.NewRoot(before.Version+1, roots, releases, q.rootThreshold, q.releaseThreshold)
	if err != nil {
		return next, err
	}
	next.Floor, next.Ceiling = before.Floor, before.Ceiling
	if given("ceiling") {
		next.Ceiling, next.Floor = q.ceiling, 0
	}
	if given("floor") {
		next.Floor = q.floor
	}
	return next, nil
}

func publicKeys(r firmware.Root, ids []firmware.KeyID) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, k := range r.Keys {
		if slices.Contains(ids, firmware.IDOf(k)) {
			keys = append(keys, k)
		}
	}
	return keys
}

// rootRotated is what root rotate has made, as JSON.
type rootRotated struct {
	File string   `json:"file"`
	Root rootInfo `json:"root"`
	// How many signatures are missing of the root keys before and of its own.
	MissingOld uint64 `json:"missing_old"`
	MissingNew uint64 `json:"missing_new"`
}

func (a *app) tellRotation(before, next firmware.Root, e firmware.Envelope, file string, asJSON bool) error {
	made := rootRotated{File: file, Root: showRoot(next, e), MissingOld: missingOf(before, e), MissingNew: missingOf(next, e)}
	if asJSON {
		return printJSON(a.stdout, made)
	}
	then := "Publish it: ecowatt firmware root push " + file
	if made.MissingOld > 0 || made.MissingNew > 0 {
		then = fmt.Sprintf("It needs %d more of the root keys of version %d, and %d of its own: ecowatt firmware sign %s",
			made.MissingOld, before.Version, made.MissingNew, file)
	}
	_, err := fmt.Fprintf(a.stdout, "Root of trust %d is %s.\n%s\n", next.Version, file, then)
	return err
}

// missingOf counts the signatures of r's root keys that e still needs.
func missingOf(r firmware.Root, e firmware.Envelope) uint64 {
	missing := r.RootThreshold
	for _, id := range e.Signers(firmware.StatementRoot) {
		if slices.Contains(r.RootKeys, id) && missing > 0 {
			missing--
		}
	}
	return missing
}

// firmwareRootPath is the path of the root of trust in the API.
const firmwareRootPath = "/api/v1/firmware/root"

func (a *app) newFirmwareRootPushCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "push FILE",
		Short: "Publish a root of trust to the cloud",
		Long: `Publish a root of trust to the cloud, which takes the first one, and then each that
follows the one it has. New devices get the newest with their enrolment; the others
are told of it before the next release. No key is sent. For administrators.`,
		Example: "  ecowatt firmware root push firmware-root.2",
		Args:    arguments("FILE"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		data, err := readFile(args[0], firmware.MaxEnvelope)
		if err != nil {
			return err
		}
		r, err := firmware.ParseRoot(data)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		header := map[string]string{"Content-Type": "application/cbor"}
		var now api.FirmwareRoot
		if err := cloud.callWith(cmd.Context(), http.MethodPut, firmwareRootPath, data, header, &now); err != nil {
			return refusedFile(args[0], err)
		}
		if *asJSON {
			e, err := firmware.ParseEnvelope(data)
			if err != nil {
				return err
			}
			return printJSON(a.stdout, showRoot(r, e))
		}
		if !now.Added {
			_, err = fmt.Fprintf(a.stdout, "%s has root %d already; the newest is %d.\n", cloud.base, r.Version, now.Version)
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s trusts root %d.\n", cloud.base, r.Version)
		return err
	}
	return c
}

// refusedFile is the error of a file that the cloud does not take: it is no wrong
// usage of the command.
func refusedFile(name string, err error) error {
	refused, ok := errors.AsType[*refusedError](err)
	if !ok {
		return err
	}
	switch refused.status {
	case http.StatusUnprocessableEntity, http.StatusConflict, http.StatusRequestEntityTooLarge:
		return &failure{code: exitFailed, err: fmt.Errorf("%s: %w", name, refused)}
	}
	return err
}
