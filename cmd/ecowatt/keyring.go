package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
)

func (a *app) newKeyringCommand() *cobra.Command {
	return group("keyring", "Rotate the keys that wrap the keys in the database",
		a.newKeyringListCommand(),
		a.newKeyringAddCommand(),
		a.newKeyringPrimaryCommand(),
		a.newKeyringRewrapCommand(),
		a.newKeyringRemoveCommand(),
	)
}

// keyringPath is the path of the key ring in the API.
const keyringPath = "/api/v1/keyring"

// keyringCommand adds to a command what these commands share.
func (a *app) keyringCommand(c *cobra.Command, do func(ctx context.Context, cloud *client, args []string, asJSON bool) error) *cobra.Command {
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		return do(cmd.Context(), cloud, args, *asJSON)
	}
	return c
}

func (a *app) newKeyringListCommand() *cobra.Command {
	return a.keyringCommand(&cobra.Command{
		Use:     "list",
		Short:   "List the key-encryption keys, and what each wraps",
		Example: "  ecowatt keyring list",
		Args:    noArguments,
	}, func(ctx context.Context, cloud *client, _ []string, asJSON bool) error {
		var list api.KeyringList
		if err := cloud.get(ctx, keyringPath, nil, &list); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, list)
		}
		return keyringTable(list.Keys, time.Now()).render(a.stdout)
	})
}

func keyringTable(keys []api.KeyringKey, now time.Time) *table {
	t := newTable("KEY<", "STATE<", "AGE", "DEVICE KEYS", "SESSIONS", "RELEASES")
	for _, k := range keys {
		state := ""
		if k.Primary {
			state = "primary"
		}
		t.add(k.ID, orMissing(state), age(k.MadeAt, now), fmt.Sprint(k.DeviceKeys), fmt.Sprint(k.Sessions), fmt.Sprint(k.Releases))
	}
	return t
}

func (a *app) newKeyringAddCommand() *cobra.Command {
	return a.keyringCommand(&cobra.Command{
		Use:   "add",
		Short: "Add a key-encryption key",
		Long: `Add a key-encryption key to the key ring of the running cloud. It wraps nothing
yet. Back up the file keyring.json before you make it the primary one: what a key
wraps is lost with the key.`,
		Example: "  ecowatt keyring add",
		Args:    noArguments,
	}, func(ctx context.Context, cloud *client, _ []string, asJSON bool) error {
		var added api.KeyringKey
		if err := cloud.call(ctx, http.MethodPost, keyringPath+"/keys", nil, &added); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, added)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is on the key ring.\nBack up keyring.json, then: ecowatt keyring primary %s\n", added.ID, added.ID)
		return err
	})
}

func (a *app) newKeyringPrimaryCommand() *cobra.Command {
	return a.keyringCommand(&cobra.Command{
		Use:     "primary KEY",
		Short:   "Choose the key that wraps from now on",
		Example: "  ecowatt keyring primary 8899aabbccddeeff",
		Args:    arguments("KEY"),
	}, func(ctx context.Context, cloud *client, args []string, asJSON bool) error {
		var list api.KeyringList
		if err := cloud.send(ctx, http.MethodPut, keyringPath+"/primary", map[string]string{"id": args[0]}, &list); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, list)
		}
		_, err := fmt.Fprintf(a.stdout, "%s wraps from now on.\nWrap anew what is there: ecowatt keyring rewrap\n", args[0])
		return err
	})
}

func (a *app) newKeyringRewrapCommand() *cobra.Command {
	return a.keyringCommand(&cobra.Command{
		Use:   "rewrap",
		Short: "Wrap all keys in the database with the primary key",
		Long: `Wrap the keys of all devices, sessions and releases with the primary key, while
devices talk. It may be interrupted and started again at any time.`,
		Example: "  ecowatt keyring rewrap",
		Args:    noArguments,
	}, func(ctx context.Context, cloud *client, _ []string, asJSON bool) error {
		done, err := a.rewrap(ctx, cloud)
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSON(a.stdout, done)
		} else {
			_, err = fmt.Fprintf(a.stdout, "%s are wrapped anew with %s.\n", wrapped(done), done.Primary)
		}
		if err == nil && len(done.Failed) > 0 {
			err = hinted(fmt.Errorf("%s could not be unwrapped and stay as they are: %s", countOf(len(done.Failed), "key"), strings.Join(done.Failed, "; ")),
				"docs/operations.md says what to do about them.")
		}
		return err
	})
}

// wrapped counts what was wrapped anew.
func wrapped(r api.KeyringRewrap) string {
	return countOf(r.DeviceKeys, "device key") + ", " + countOf(r.Sessions, "session") + " and " + countOf(r.Releases, "release")
}

// rewrap asks for more until there is nothing more, and returns the sum.
func (a *app) rewrap(ctx context.Context, cloud *client) (sum api.KeyringRewrap, err error) {
	sum.Failed = []string{}
	line := newLive(a.stderr)
	defer line.clear()
	query := url.Values{}
	for {
		var part api.KeyringRewrap
		if err := cloud.call(ctx, http.MethodPost, keyringPath+"/rewrap"+encoded(query), nil, &part); err != nil {
			if sum.Primary == "" {
				return sum, err
			}
			return sum, hinted(fmt.Errorf("after %s: %w", wrapped(sum), err),
				"What is wrapped anew stays so. Start it again for the rest.")
		}
		sum.Primary = part.Primary
		sum.DeviceKeys += part.DeviceKeys
		sum.Sessions += part.Sessions
		sum.Releases += part.Releases
		sum.Failed = append(sum.Failed, part.Failed...)
		line.show(wrapped(sum) + " are wrapped anew")
		if part.Next == "" {
			return sum, nil
		}
		query.Set("after", part.Next)
	}
}

func (a *app) newKeyringRemoveCommand() *cobra.Command {
	return a.keyringCommand(&cobra.Command{
		Use:   "remove KEY",
		Short: "Remove a key-encryption key that wraps nothing any more",
		Long: `Remove a key-encryption key from the key ring, for good. It is refused while the
key wraps anything or is the primary one. Backups of the database made before need
the key still: keep the copy of keyring.json that belongs to them.`,
		Example: "  ecowatt keyring remove 00112233445566ff",
		Args:    arguments("KEY"),
	}, func(ctx context.Context, cloud *client, args []string, asJSON bool) error {
		var list api.KeyringList
		if err := cloud.call(ctx, http.MethodDelete, keyringPath+"/keys/"+url.PathEscape(args[0]), nil, &list); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, list)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is removed.\n", args[0])
		return err
	})
}
