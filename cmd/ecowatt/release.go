package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/firmware"
)

const (
	releasesPath = "/api/v1/firmware"
	bundleType   = "application/x-tar"
)

func (a *app) newFirmwarePushCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "push FILE",
		Short: "Push a signed release to the cloud",
		Long: `Push a bundle that 'ecowatt firmware build' has made and 'ecowatt firmware sign' has
signed. The cloud verifies the signatures against its newest root of trust, and every
file against its name, before the release is there. To push it again adds what was
missing.`,
		Example: "  ecowatt firmware push agent-12.ewfw",
		Args:    arguments("FILE"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		pushed, err := a.push(cmd.Context(), cloud, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, pushed)
		}
		r := pushed.Release
		if !pushed.Added {
			_, err = fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("Release %d (%s) was there already.", r.Release, r.Version)))
			return err
		}
		_, err = fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("Release %d (%s) is there. Roll it out: ecowatt rollout create %s", r.Release, r.Version, r.Version)))
		return err
	}
	return c
}

// push sends a bundle, once its form is what it should be.
func (a *app) push(ctx context.Context, cloud *client, name string) (pushed api.PushedRelease, err error) {
	f, err := openSigned(name)
	if err != nil {
		return pushed, err
	}
	defer f.Close()
	switch {
	case f.bundle == nil:
		return pushed, fmt.Errorf("%s is no bundle", name)
	case len(f.envelope.Signers(firmware.StatementManifest)) == 0:
		return pushed, hinted(fmt.Errorf("%s is not signed", name), "Sign it: ecowatt firmware sign "+name+" --key KEY")
	}
	info, err := f.Stat()
	if err != nil {
		return pushed, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return pushed, err
	}
	line := newLive(a.stderr)
	defer line.clear()
	sent := &told{Reader: f, tell: func(n int64) {
		line.show(fmt.Sprintf("%s %s of %s", bar(int(n>>10), 0, int(info.Size()>>10), 30), sizeText(uint64(n)), sizeText(uint64(info.Size()))))
	}}
	err = cloud.upload(ctx, releasesPath, bundleType, sent, info.Size(), &pushed)
	return pushed, refusedFile(name, err)
}

// told tells how much was read.
type told struct {
	io.Reader
	n    int64
	tell func(n int64)
}

func (c *told) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

func (a *app) newFirmwareListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the releases that the cloud has",
		Example: "  ecowatt firmware list",
		Args:    noArguments,
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var list api.ReleaseList
		if err := cloud.get(cmd.Context(), releasesPath, nil, &list); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(a.stdout, list)
		case list.Root == 0:
			fmt.Fprintln(a.stderr, "The cloud has no root of trust: ecowatt firmware root push FILE")
		case len(list.Releases) == 0:
			fmt.Fprintln(a.stderr, "There are no releases.")
		}
		if len(list.Releases) == 0 {
			return nil
		}
		t := newTable("RELEASE", "VERSION<", "SECURITY", "HARDWARE<", "IMAGE", "FILES<", "ADDED<", "BY<", "ID<")
		for _, r := range list.Releases {
			t.add(strconv.FormatUint(r.Release, 10), r.Version, strconv.FormatUint(r.Security, 10), strings.Join(r.Hardware, ", "), sizeText(r.Size),
				filesText(r), localTime(r.AddedAt), r.AddedBy, r.ID[:16])
		}
		return t.render(a.stdout)
	}
	return c
}

// filesText tells what is fetched of a release, or that some of it is missing.
func filesText(r api.Release) string {
	if r.Missing > 0 {
		return fmt.Sprintf("%d missing: push it again", r.Missing)
	}
	var ways []string
	for _, p := range r.Payloads {
		ways = append(ways, p.Kind+" "+sizeText(p.Size))
	}
	return strings.Join(ways, ", ")
}

func (a *app) newFirmwareShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show RELEASE",
		Short: "Show a release that the cloud has",
		Long: `Show a release that the cloud has. RELEASE is its version, its number, or the
beginning of its id.`,
		Example: "  ecowatt firmware show 1.4.0",
		Args:    arguments("RELEASE"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		r, err := cloud.release(cmd.Context(), args[0])
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(a.stdout, r)
		}
		return printRelease(a.stdout, r)
	}
	return c
}

func printRelease(w io.Writer, r api.Release) error {
	t := newTable("", "<")
	t.rows, t.left = nil, []bool{true, true}
	t.add("release", fmt.Sprintf("%d (%s)", r.Release, r.Version))
	t.add("id", r.ID)
	t.add("hardware", strings.Join(r.Hardware, ", "))
	t.add("security", strconv.FormatUint(r.Security, 10))
	t.add("image", fmt.Sprintf("%d bytes, %s", r.Size, r.Image))
	if r.MinFrom > 0 {
		t.add("updates from", strconv.FormatUint(r.MinFrom, 10))
	}
	if len(r.DowngradeFrom) > 0 {
		t.add("back from", strings.Trim(fmt.Sprint(r.DowngradeFrom), "[]"))
	}
	if r.Created != nil {
		t.add("created", localTime(*r.Created))
	}
	if r.Expires != nil {
		t.add("expires", localTime(*r.Expires))
	}
	t.add("added", localTime(r.AddedAt)+" by "+r.AddedBy)
	if r.Missing > 0 {
		t.add("files", filesText(r))
	}
	if err := t.render(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	p := newTable("PAYLOAD<", "BYTES", "OF IMAGE", "BASE<")
	for _, x := range r.Payloads {
		p.add(x.Kind, strconv.FormatUint(x.Size, 10), fmt.Sprintf("%.1f %%", 100*float64(x.Size)/float64(r.Size)), orMissing(cut(x.Base, 17)))
	}
	return p.render(w)
}

// release finds the release that a person names: by its version, its number, or
// the beginning of its id.
func (c *client) release(ctx context.Context, name string) (api.Release, error) {
	var list api.ReleaseList
	if err := c.get(ctx, releasesPath, nil, &list); err != nil {
		return api.Release{}, err
	}
	var found []api.Release
	for _, r := range list.Releases {
		if r.Version == name || strconv.FormatUint(r.Release, 10) == name || len(name) >= 8 && strings.HasPrefix(r.ID, name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return api.Release{}, &failure{code: exitNotFound, err: fmt.Errorf("there is no release %q", name), hint: "ecowatt firmware list tells which there are."}
	}
	ids := make([]string, len(found))
	for i, r := range found {
		ids[i] = r.ID[:16]
	}
	return api.Release{}, usagef("RELEASE: %q names several: %s; write one of these", name, strings.Join(ids, ", "))
}

func (a *app) newFirmwareRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove RELEASE",
		Short: "Remove a release from the cloud",
		Long: `Remove a release, with its files, from the cloud. Refused while a rollout needs it.
Devices that run it go on. RELEASE is as for 'ecowatt firmware show'.`,
		Example: "  ecowatt firmware remove 1.3.0",
		Args:    arguments("RELEASE"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		r, err := cloud.release(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := cloud.call(cmd.Context(), http.MethodDelete, releasesPath+"/"+r.ID, nil, nil); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, r)
		}
		_, err = fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("Release %d (%s) is removed.", r.Release, r.Version)))
		return err
	}
	return c
}
