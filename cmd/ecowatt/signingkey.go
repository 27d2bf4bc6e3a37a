package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	agefile "filippo.io/age"
	"github.com/spf13/cobra"

	"ecowatt/firmware"
	"ecowatt/key"
)

// A signing key is a line of text, which stands in a file of the age format
// under a passphrase. Its public half is a line of text in a file beside it.
const (
	signingLine = "ecowatt-signing-key-1 "
	publicLine  = "ecowatt-public-key-1 "
	signingFile = ".key"
	publicFile  = ".pub"
	ageMagic    = "age-encryption.org/v1\n"
	maxKeyFile  = 4 << 10
	minPhrase   = 12 // bytes

	passphraseWork = 18 // of a key that is made: about a second for each try, see app.work
)

// phrases is where the passphrases of keys come from.
type phrases struct{ file string }

// phraseFlag adds the flag of the commands that use signing keys.
func phraseFlag(c *cobra.Command) *phrases {
	p := &phrases{}
	c.Flags().StringVar(&p.file, "passphrase-file", "", "file whose first line is the passphrase of all keys (default: asked for on the terminal)")
	return p
}

// keysFlag adds the flag that names the keys that sign.
func keysFlag(c *cobra.Command) *[]string {
	return c.Flags().StringArray("key", nil, "file of a signing key, or - for standard input; may be given again")
}

// passphrase returns the passphrase of the key in file.
func (a *app) passphrase(ctx context.Context, from *phrases, file string, isNew bool) (string, error) {
	if from.file != "" {
		text, err := readPhrase(from.file)
		if err != nil {
			return "", err
		}
		return text, checkPhrase(text, isNew)
	}
	text, err := askSecret(ctx, "Passphrase of "+file+": ")
	if err != nil {
		return "", hinted(fmt.Errorf("asking for the passphrase of %s: %w", file, err), "Without a terminal, name a file that holds it with --passphrase-file.")
	}
	if err := checkPhrase(text, isNew); err != nil || !isNew {
		return text, err
	}
	again, err := askSecret(ctx, "Once more: ")
	if err == nil && again != text {
		err = errors.New("the two passphrases differ")
	}
	return text, err
}

func checkPhrase(text string, isNew bool) error {
	if isNew && len(text) < minPhrase {
		return fmt.Errorf("a passphrase of %d bytes is too short; at least %d", len(text), minPhrase)
	}
	return nil
}

func readPhrase(name string) (string, error) {
	data, err := readClosed(name, "the passphrase", maxKeyFile)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// readClosed reads a file that nobody else may read.
func readClosed(name, what string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, hinted(fmt.Errorf("%s with %s is open to others (mode %04o)", name, what, info.Mode().Perm()), "Close it with: chmod 600 "+name)
	}
	return readAtMost(f, name, most)
}

// readFile reads a file that is not longer than most.
func readFile(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, most)
}

func readAtMost(r io.Reader, name string, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return data, nil
}

// newSigningKey makes a key in the files NAME.key and NAME.pub, neither of which
// exists yet.
func (a *app) newSigningKey(ctx context.Context, from *phrases, name string) (k key.Signing, err error) {
	for _, file := range []string{name + signingFile, name + publicFile} {
		if err := mustBeNew(file); err != nil {
			return k, err
		}
	}
	phrase, err := a.passphrase(ctx, from, name+signingFile, true)
	if err != nil {
		return k, err
	}
	if k, err = key.NewSigning(rand.Reader); err != nil {
		return k, fmt.Errorf("making a key: %w", err)
	}
	err = writeNew(name+signingFile, 0o600, func(w io.Writer) error { return sealSigningKey(w, k, phrase, a.work) })
	if err != nil {
		return k, err
	}
	return k, writeNew(name+publicFile, 0o644, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%s\n", publicLine, base64.StdEncoding.EncodeToString(k.Public()))
		return err
	})
}

func mustBeNew(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists already; it is not overwritten", file)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sealSigningKey writes a key under a passphrase; work is app.work.
func sealSigningKey(w io.Writer, k key.Signing, phrase string, work int) error {
	to, err := agefile.NewScryptRecipient(phrase)
	if err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	to.SetWorkFactor(work)
	sealed, err := agefile.Encrypt(w, to)
	if err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	seed := k.Secret()
	line := base64.StdEncoding.AppendEncode([]byte(signingLine), seed[:])
	clear(seed[:])
	defer clear(line)
	if _, err := sealed.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	return sealed.Close()
}

// readSigningKeys reads the keys in the files named; - is standard input, which
// holds a key as it is or under a passphrase.
func (a *app) readSigningKeys(ctx context.Context, from *phrases, files []string) ([]key.Signing, error) {
	keys := make([]key.Signing, 0, len(files))
	stdin := false
	for _, file := range files {
		if file == "-" && stdin {
			return nil, usagef("--key: standard input holds one key")
		}
		stdin = stdin || file == "-"
		k, err := a.readSigningKey(ctx, from, file)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (a *app) readSigningKey(ctx context.Context, from *phrases, file string) (k key.Signing, err error) {
	var data []byte
	if file == "-" {
		file = "the key on standard input"
		data, err = readAtMost(a.stdin, file, maxKeyFile)
	} else {
		data, err = readClosed(file, "a signing key", maxKeyFile)
	}
	if err != nil {
		return k, err
	}
	defer clear(data)
	if bytes.HasPrefix(data, []byte(ageMagic)) {
		phrase, err := a.passphrase(ctx, from, file, false)
		if err != nil {
			return k, err
		}
		if data, err = openSigningKey(data, phrase); err != nil {
			return k, fmt.Errorf("%s: %w", file, err)
		}
		defer clear(data)
	} else if file != "the key on standard input" {
		return k, fmt.Errorf("%s is no signing key under a passphrase", file)
	}
	seed, err := parseKeyLine(data, signingLine)
	if err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	defer clear(seed)
	if k, err = key.SigningFromSeed(seed); err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

func openSigningKey(sealed []byte, phrase string) ([]byte, error) {
	id, err := agefile.NewScryptIdentity(phrase)
	if err != nil {
		return nil, fmt.Errorf("opening a key: %w", err)
	}
	r, err := agefile.Decrypt(bytes.NewReader(sealed), id)
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(r); err == nil {
			return data, nil
		}
	}
	return nil, errors.New("it does not open: the passphrase is another one, or the file is damaged")
}

func parseKeyLine(data []byte, begin string) ([]byte, error) {
	line, ok := strings.CutPrefix(strings.TrimSpace(string(data)), begin)
	b, err := base64.StdEncoding.Strict().DecodeString(line)
	if !ok || err != nil || len(b) != key.Size {
		return nil, fmt.Errorf("no line of the form %sBASE64", begin)
	}
	return b, nil
}

func readPublicKeys(files []string) ([]ed25519.PublicKey, error) {
	keys := make([]ed25519.PublicKey, 0, len(files))
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading a public key: %w", err)
		}
		data, err := readAtMost(f, file, maxKeyFile)
		_ = f.Close() // it was only read
		if err != nil {
			return nil, err
		}
		public, err := parseKeyLine(data, publicLine)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, public)
	}
	return keys, nil
}

// keyInfo is a key as it is told of, as JSON.
type keyInfo struct {
	ID     string `json:"id"`
	Role   string `json:"role,omitempty"`
	File   string `json:"file"`
	Public string `json:"public_file"`
}

func (a *app) newFirmwareKeygenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a signing key",
		Long: `Make a signing key: NAME.key holds it under a passphrase, in the age format, and
NAME.pub its public half. Existing files are never overwritten. What the key may
sign is said by the root of trust that names it.`,
		Example: "  ecowatt firmware keygen release-2",
		Args:    arguments("NAME"),
	}
	from, asJSON := phraseFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		k, err := a.newSigningKey(cmd.Context(), from, args[0])
		if err != nil {
			return err
		}
		made := infoOf(k, "", args[0])
		if *asJSON {
			return printJSON(a.stdout, made)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is the key %s.\nIts public half, for a root of trust, is %s.\n", made.File, made.ID, made.Public)
		return err
	}
	return c
}

func infoOf(k key.Signing, role, name string) keyInfo {
	return keyInfo{ID: firmware.IDOf(k.Public()).String(), Role: role, File: filepath.Clean(name + signingFile), Public: filepath.Clean(name + publicFile)}
}
