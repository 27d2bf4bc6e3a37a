package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt/cloud"
)

// backupJSON is what backup and restore print for programs.
type backupJSON struct {
	File    string   `json:"file"`
	Devices int64    `json:"devices"`
	KEKs    []string `json:"key_encryption_keys"`
}

func (a *app) newBackupCommand() *cobra.Command {
	var data, db, out string
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Back up the cloud's database, also while it serves",
		Long: `Back up the cloud's database, also while it serves: one state of everything but
sessions, read again before it counts. After a restore devices shake hands again
by themselves.

The key ring is not part of it: without the key ring of its time nobody is let in
from a backup, and with it everybody could be. Keep the two apart.`,
		Example: "  ecowatt backup --data /var/lib/ecowatt --out ecowatt-2026-06-21.backup",
		Args:    noArguments,
	}
	c.Flags().StringVar(&data, "data", "ecowatt-data", "the cloud's data folder, on this machine")
	c.Flags().StringVar(&db, "db", "", "the database, sqlite:FILE (default ecowatt.db in the data folder)")
	c.Flags().StringVar(&out, "out", "", "the backup; a file that exists is never overwritten")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if out == "" {
			return usagef("--out: name the file of the backup")
		}
		b, err := cloud.Backup(cmd.Context(), data, db, out)
		if option, ok := errors.AsType[*cloud.OptionError](err); ok {
			return usagef("%w", option)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, backupJSON{File: out, Devices: b.Devices, KEKs: orEmpty(b.KEKs)})
		}
		_, err = fmt.Fprintf(a.stdout, "%s holds %s, without sessions.\n%s", out, countOf(b.Devices, "device"), keysNeeded(b.KEKs))
		return err
	}
	return c
}

func (a *app) newRestoreCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   "restore FILE --data DIR",
		Short: "Make the database of an empty data folder from a backup",
		Long: `Make the database of an empty data folder from a backup, which is read whole
first. Only the key ring and the token may be in the folder already. Devices shake
hands again by themselves.`,
		Example: "  ecowatt restore ecowatt-2026-06-21.backup --data /var/lib/ecowatt-new",
		Args:    arguments("FILE"),
	}
	c.Flags().StringVar(&data, "data", "", "the data folder, empty or not there yet")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if data == "" {
			return usagef("--data: name the data folder to restore into")
		}
		r, err := cloud.Restore(cmd.Context(), args[0], data)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, backupJSON{File: args[0], Devices: r.Devices, KEKs: orEmpty(r.KEKs)})
		}
		next := fmt.Sprintf("Start the cloud with: ecowatt serve --data %s\n", data)
		if len(r.Missing) > 0 {
			next = fmt.Sprintf("Before the cloud starts, put the key ring with %s there: %s/keyring.json, mode 0600.\n", strings.Join(r.Missing, ", "), data)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is restored into %s: %s.\n%s", args[0], data, countOf(r.Devices, "device"), next)
		return err
	}
	return c
}

// keysNeeded says what a backup is worth nothing without.
func keysNeeded(keks []string) string {
	switch len(keks) {
	case 0:
		return ""
	case 1:
		return "Its device keys open with the key-encryption key " + keks[0] + ": keep a copy of keyring.json, apart from it.\n"
	}
	return "Its device keys open with the key-encryption keys " + strings.Join(keks, ", ") + ": keep a copy of keyring.json, apart from it.\n"
}

// countOf is "1 device", "2 devices".
func countOf[T int | int64](n T, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// orEmpty is a list that is not null in JSON.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
