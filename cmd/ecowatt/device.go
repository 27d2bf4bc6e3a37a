package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/internal/disk"
)

func (a *app) newDeviceCommand() *cobra.Command {
	return group("device", "Add, list, show, disable and rekey devices",
		a.newDeviceAddCommand(),
		a.newDeviceListCommand(),
		a.newDeviceShowCommand(),
		a.newDeviceSwitchCommand("disable", "Refuse a device, and end its sessions", true),
		a.newDeviceSwitchCommand("enable", "Let a disabled device in again", false),
		a.newDeviceSetCommand(),
		a.newDeviceRotateCommand(),
		a.newDeviceRecoverCommand(),
	)
}

// jsonFlag adds the flag of every command that prints data.
func jsonFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print JSON, for programs")
}

// devicePath is the path of a device in the API.
func devicePath(id ecowatt.DeviceID) string { return "/api/v1/devices/" + url.PathEscape(string(id)) }

// parseDevice reads the argument that names a device.
func parseDevice(arg string) (ecowatt.DeviceID, error) {
	id, err := ecowatt.ParseDeviceID(arg)
	if err != nil {
		return "", usagef("%w", err)
	}
	return id, nil
}

// addRequest is what device add is asked for.
type addRequest struct {
	api.NewDevice
	out  string
	json bool
}

func (a *app) newDeviceAddCommand() *cobra.Command {
	var r addRequest
	c := &cobra.Command{
		Use:   "add ID",
		Short: "Add a device and write its enrolment file",
		Long: `Add a device and write its enrolment file, which holds its key: the one copy
outside the cloud. Move the file to the gateway and import it there with
'ecowatt-agent enroll'. An existing file is never overwritten.

ID is 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit.`,
		Example: "  ecowatt device add roof-1 --group north --out roof-1.enrol.json",
		Args:    arguments("ID"),
	}
	c.Flags().StringVar(&r.Group, "group", "", "group that the device belongs to")
	c.Flags().StringVar(&r.Notes, "notes", "", "anything worth remembering")
	c.Flags().StringVar(&r.TimeZone, "time-zone", "", "of the site, as in Europe/Berlin: its days begin at midnight there (default UTC)")
	c.Flags().StringVar(&r.out, "out", "", "the enrolment file (default ID.enrol.json)")
	c.Flags().StringVar(&r.CloudURL, "cloud-url", "", "where the device will find the cloud (default what the cloud takes for its own URL)")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		r.ID, r.json = string(id), *asJSON
		if r.out == "" {
			r.out = r.ID + ".enrol.json"
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		return a.addDevice(cmd.Context(), cloud, r)
	}
	return c
}

func (a *app) addDevice(ctx context.Context, cloud *client, r addRequest) error {
	var added struct {
		Device    api.Device      `json:"device"`
		Enrolment json.RawMessage `json:"enrolment"`
	}
	err := writeNew(r.out, 0o600, func(w io.Writer) error {
		if err := cloud.send(ctx, http.MethodPost, "/api/v1/devices", r.NewDevice, &added); err != nil {
			return err
		}
		var file bytes.Buffer
		if err := json.Indent(&file, added.Enrolment, "", "  "); err != nil {
			return fmt.Errorf("the cloud's answer holds no enrolment: %w", err)
		}
		_, err := w.Write(append(file.Bytes(), '\n'))
		return err
	})
	switch {
	case err != nil && added.Device.ID != "":
		return hinted(fmt.Errorf("device %s was added, but its enrolment file could not be written, and the key in it is lost: %w", r.ID, err),
			"Disable it with 'ecowatt device disable "+r.ID+"' and add another one.")
	case err != nil:
		return err
	case r.json:
		return printJSON(a.stdout, map[string]any{"device": added.Device, "file": r.out})
	}
	_, err = fmt.Fprintf(a.stdout, `%s added. Its enrolment file, which holds its key, is %s.
On the gateway: ecowatt-agent enroll %s --dir DIR
`, r.ID, r.out, filepath.Base(r.out))
	return err
}

// writeNew makes a file that must not exist yet and lets fill write it. The
// file is durable when writeNew returns nil, and gone when it returns an error.
func writeNew(name string, perm fs.FileMode, fill func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; it is not overwritten", name)
	}
	if err != nil {
		return fmt.Errorf("making the file: %w", err)
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = disk.OS(filepath.Dir(name)).SyncDir(".")
	}
	if err == nil {
		return nil
	}
	if removing := os.Remove(name); removing != nil && !errors.Is(removing, fs.ErrNotExist) {
		return &failure{code: codeOf(err), err: errors.Join(err, removing)}
	}
	return err
}

func (a *app) newDeviceListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List devices",
		Example: "  ecowatt device list --group north",
		Args:    noArguments,
	}
	group := c.Flags().String("group", "", "only the devices of this group")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		devices, err := cloud.devices(cmd.Context(), *group)
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(a.stdout, api.DeviceList{Devices: devices})
		case len(devices) == 0:
			fmt.Fprintln(a.stderr, "There are no devices. Add one with 'ecowatt device add ID'.")
			return nil
		}
		return deviceTable(devices, time.Now()).render(a.stdout)
	}
	return c
}

// devices returns the whole fleet, or a group of it, page by page.
func (c *client) devices(ctx context.Context, group string) ([]api.Device, error) {
	query := url.Values{"limit": {"1000"}}
	if group != "" {
		query.Set("group", group)
	}
	all := []api.Device{}
	for {
		var page api.DeviceList
		if err := c.get(ctx, "/api/v1/devices", query, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Devices...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

// clonedTime is for how long a list shows that a device seemed to have a clone.
const clonedTime = 7 * 24 * time.Hour

func deviceTable(devices []api.Device, now time.Time) *table {
	t := newTable("ID<", "GROUP<", "STATE<", "LAST SEEN", "EPOCH", "AGENT<", "INVERTERS<")
	for _, d := range devices {
		agent := ""
		if d.Agent != nil {
			agent = d.Agent.Version
		}
		if d.Firmware != nil && d.Firmware.Release > 0 {
			agent = fmt.Sprintf("%s (%d)", d.Firmware.Version, d.Firmware.Release)
		}
		inverters := make([]string, len(d.Inverters))
		for i, v := range d.Inverters {
			inverters[i] = v.Name
		}
		state := stateOf(d)
		if d.Cloned != nil && now.Sub(*d.Cloned) < clonedTime {
			state += ", clone?"
		}
		switch {
		case d.Config.Pending:
			state += ", configuration pending"
		case d.Config.Drift > 0:
			state += ", configuration drifted"
		}
		if d.Firmware != nil {
			state += map[string]string{"trial": ", on trial", "rolled_back": ", rolled back"}[d.Firmware.State]
		}
		if d.Update != nil {
			state += fmt.Sprintf(", update to %s: %s", d.Update.Version, d.Update.Phase)
		}
		t.add(d.ID, orMissing(d.Group), state, lastSeen(d, now), fmt.Sprint(d.Epoch), orMissing(agent), orMissing(strings.Join(inverters, ", ")))
	}
	return t
}

func stateOf(d api.Device) string {
	if d.Disabled {
		return "disabled"
	}
	return "enabled"
}

func lastSeen(d api.Device, now time.Time) string {
	if d.LastSeen == nil {
		return "never"
	}
	return age(*d.LastSeen, now)
}

func (a *app) newDeviceShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a device",
		Example: "  ecowatt device show roof-1",
		Args:    arguments("ID"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var d api.Device
		if err := cloud.get(cmd.Context(), devicePath(id), nil, &d); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, d)
		}
		if err := showDevice(a.stdout, d, time.Now()); err != nil {
			return err
		}
		var events api.Records
		query := url.Values{"security": {"true"}, "last": {strconv.Itoa(shownEvents)}}
		if err := cloud.get(cmd.Context(), devicePath(id)+"/events", query, &events); err != nil {
			return err
		}
		return showEvents(a.stdout, id, events.Records)
	}
	return c
}

// shownEvents is how many security events are shown with a device.
const shownEvents = 5

// showEvents writes the last security events of a device, where there are any.
func showEvents(w io.Writer, id ecowatt.DeviceID, records []audit.Record) error {
	if len(records) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nLast security events; all of them: ecowatt log --security --last 0 --device %s\n", id)
	t := newTable("TIME<", "REASON<", "WHAT<")
	for _, r := range records {
		t.add(localTime(r.At), oneLine(r.Attrs[audit.AttrReason]), oneLine(r.Text))
	}
	return t.render(w)
}

// showDevice writes what is known of a device, for people.
func showDevice(w io.Writer, d api.Device, now time.Time) error {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-11s%s\n", name, oneLine(orMissing(value))) }
	line("device", d.ID)
	line("group", d.Group)
	line("state", stateOf(d))
	line("notes", d.Notes)
	line("time zone", d.TimeZone)
	line("added", localTime(d.CreatedAt))
	if d.LastSeen == nil {
		line("last seen", "never")
	} else {
		line("last seen", fmt.Sprintf("%s ago, %s", age(*d.LastSeen, now), localTime(*d.LastSeen)))
	}
	line("key epoch", fmt.Sprintf("%d, since %s", d.Epoch, localTime(d.Key.Since)))
	if d.Key.Pending != nil {
		line("rotation", rotationText(*d.Key.Pending, now))
	}
	if d.Key.RecoveryUntil != nil {
		line("recovery", "let in with its first key until "+localTime(*d.Key.RecoveryUntil))
	}
	if d.Cloned != nil {
		line("clone", fmt.Sprintf("two devices seemed to have its key %s ago, %s", age(*d.Cloned, now), localTime(*d.Cloned)))
	}
	if d.Agent == nil {
		line("agent", "has not reported yet")
	} else {
		control := "writing to inverters not allowed"
		if d.Agent.ControlAllowed {
			control = "writing to inverters allowed"
		}
		line("agent", fmt.Sprintf("%s on %s, %s", d.Agent.Version, orMissing(d.Agent.Hardware), control))
	}
	if d.Firmware != nil {
		line("firmware", fmt.Sprintf("%s, release %d, %s", orMissing(d.Firmware.Version), d.Firmware.Release, d.Firmware.State))
	}
	if u := d.Update; u != nil {
		line("update", fmt.Sprintf("to %s, release %d: %s since %s; rollout %s is %s", u.Version, u.Release, u.Phase, localTime(u.Since), u.Rollout, u.State))
	}
	if d.Config.Revision > 0 {
		line("config", configText(d.Config))
	}
	for _, l := range d.PowerLimits {
		line("limit", limitText(l, now))
	}
	for _, v := range d.Inverters {
		profile := strings.TrimSpace(v.Profile + " " + v.ProfileVersion)
		fmt.Fprintf(&b, "\n%s: %s, serial %s, profile %s\n", oneLine(v.Name), oneLine(orMissing(v.Model)),
			oneLine(orMissing(v.Serial)), oneLine(orMissing(profile)))
		t := newTable("POINT<", "UNIT<", "WRITABLE<")
		for _, p := range v.Points {
			writable := missing
			if p.Writable {
				writable = ecowatt.Decimal(p.Min, p.Exponent) + " to " + ecowatt.Decimal(p.Max, p.Exponent)
			}
			t.add(p.Name, orMissing(p.Unit), writable)
		}
		if err := t.render(&b); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// configText says how far the configuration of a device is.
func configText(c api.DeviceConfig) string {
	text := fmt.Sprintf("revision %d, ", c.Revision)
	switch {
	case c.Pending:
		return text + "pending: the device has not answered it yet"
	case c.Drift == 1:
		return text + "drifted: 1 parameter is not in force"
	case c.Drift > 0:
		return text + fmt.Sprintf("drifted: %d parameters are not in force", c.Drift)
	}
	return text + "in force"
}

// limitText says what a power limit is, until when, and from whom.
func limitText(l api.PowerLimit, now time.Time) string {
	text := fmt.Sprintf("%s to %s %%", l.Inverter, strconv.FormatFloat(l.Percent, 'f', -1, 64))
	switch {
	case l.OverwrittenAt != nil:
		text += ", overwritten by somebody else, seen " + localTime(*l.OverwrittenAt)
	case l.Until == nil:
		text += ", its end is not known"
	case !l.Until.After(now):
		text += ", ended " + localTime(*l.Until) + ", which the device has not confirmed yet"
	default:
		text += fmt.Sprintf(" until %s, for %s more", localTime(*l.Until), age(now, *l.Until))
	}
	if l.By != "" {
		text += ", by " + l.By
	}
	if l.InForce {
		text += ": in force"
	}
	return text
}

// newDeviceSwitchCommand makes "device disable" and "device enable".
func (a *app) newDeviceSetCommand() *cobra.Command {
	var group, notes, zone string
	c := &cobra.Command{
		Use:     "set ID",
		Short:   "Change group, notes or time zone of a device",
		Long:    "Change group, notes or time zone of a device. What no flag names stays as it is; an\nempty group is none.",
		Example: "  ecowatt device set roof-1 --group north --time-zone Europe/Berlin",
		Args:    arguments("ID"),
	}
	c.Flags().StringVar(&group, "group", "", "group that the device belongs to")
	c.Flags().StringVar(&notes, "notes", "", "anything worth remembering")
	c.Flags().StringVar(&zone, "time-zone", "", "of the site, as in Europe/Berlin: its days begin at midnight there")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		var change api.DeviceChange
		for name, field := range map[string]struct {
			to    **string
			value *string
		}{"group": {&change.Group, &group}, "notes": {&change.Notes, &notes}, "time-zone": {&change.TimeZone, &zone}} {
			if cmd.Flags().Changed(name) {
				*field.to = field.value
			}
		}
		if change == (api.DeviceChange{}) {
			return usagef("nothing to change: give --group, --notes or --time-zone")
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var d api.Device
		if err := cloud.send(cmd.Context(), http.MethodPatch, devicePath(id), change, &d); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, d)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is changed.\n", d.ID)
		return err
	}
	return c
}

func (a *app) newDeviceSwitchCommand(name, short string, disabled bool) *cobra.Command {
	c := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Example: "  ecowatt device " + name + " roof-1",
		Args:    arguments("ID"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var d api.Device
		if err := cloud.send(cmd.Context(), http.MethodPatch, devicePath(id), api.DeviceChange{Disabled: &disabled}, &d); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, d)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is %s.\n", d.ID, stateOf(d))
		return err
	}
	return c
}
