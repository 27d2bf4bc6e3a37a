package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/cloud/api"
)

// rotateRequest is what device rotate-key is asked for.
type rotateRequest struct {
	api.FleetOrder
	over   string
	cancel bool
	json   bool
}

func (a *app) newDeviceRotateCommand() *cobra.Command {
	var r rotateRequest
	c := &cobra.Command{
		Use:   "rotate-key ID | --group G | --all",
		Short: "Give a device, or many, the next key",
		Long: `Give a device, a group or the whole fleet the next key. Each device is offered it
in every answer until it uses it; then the key before is refused for ever. A
rotation that is pending already stays.

--over spreads the devices over a time, each at a random moment of it.
--burn is for keys that others may know: all keys before are destroyed as soon
as the new one is used, and a device that cannot come back with it never does.
--cancel drops the next key of a device that was not offered it yet.`,
		Example: "  ecowatt device rotate-key roof-1\n  ecowatt device rotate-key --all --over 7d",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("unexpected argument %q", args[1])
			}
			return nil
		},
	}
	c.Flags().StringVar(&r.Group, "group", "", "the devices of this group")
	c.Flags().BoolVar(&r.All, "all", false, "all devices")
	c.Flags().StringVar(&r.over, "over", "", "offer it from a random moment of this time on: 30m, 12h, 7d (default at once)")
	c.Flags().BoolVar(&r.Burn, "burn", false, "destroy all keys before it as soon as it is used")
	c.Flags().BoolVar(&r.cancel, "cancel", false, "drop the next key, which was not offered yet")
	c.MarkFlagsMutuallyExclusive("group", "all")
	for _, other := range []string{"group", "all", "over", "burn"} {
		c.MarkFlagsMutuallyExclusive("cancel", other)
	}
	token := tokenFlag(c)
	c.Flags().BoolVar(&r.json, "json", false, "print JSON, for programs")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		fleet := r.All || r.Group != ""
		switch {
		case fleet && len(args) > 0:
			return usagef("give either ID, --group or --all")
		case !fleet && len(args) == 0:
			return usagef("ID is missing, or --group or --all")
		}
		if r.over != "" {
			span, err := parseSpan("--over", r.over)
			if err != nil {
				return err
			}
			r.OverS = wholeSeconds(span)
		}
		if fleet {
			return a.rotateFleet(cmd.Context(), *token, r)
		}
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		return a.rotateDevice(cmd.Context(), *token, id, r)
	}
	return c
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (a *app) rotateDevice(ctx context.Context, tokenFile string, id ecowatt.DeviceID, r rotateRequest) error {
	cloud, err := a.client(tokenFile)
	if err != nil {
		return err
	}
	path := devicePath(id) + "/key-rotation"
	if r.cancel {
		if err := cloud.call(ctx, http.MethodDelete, path, nil, nil); err != nil {
			return err
		}
		return a.printDevice(ctx, cloud, id, r.json, "The rotation is cancelled.")
	}
	var pending api.Rotation
	if err := cloud.send(ctx, http.MethodPost, path, r.RotationOrder, &pending); err != nil {
		return err
	}
	if r.json {
		return printJSON(a.stdout, pending)
	}
	_, err = fmt.Fprintf(a.stdout, "%s: rotation %s.\n", id, rotationText(pending, time.Now()))
	return err
}

func (a *app) rotateFleet(ctx context.Context, tokenFile string, r rotateRequest) error {
	cloud, err := a.client(tokenFile)
	if err != nil {
		return err
	}
	var done api.FleetOrdered
	if err := cloud.send(ctx, http.MethodPost, "/api/v1/key-rotations", r.FleetOrder, &done); err != nil {
		return err
	}
	if r.json {
		return printJSON(a.stdout, done)
	}
	text := fmt.Sprintf("Rotations ordered: %d. Pending already: %d.", done.Ordered, done.Pending)
	if done.Refused > 0 {
		text += fmt.Sprintf(" Devices that can have no further key: %d.", done.Refused)
	}
	_, err = fmt.Fprintln(a.stdout, text)
	return err
}

// printDevice shows a device for programs, or says for people what was done.
func (a *app) printDevice(ctx context.Context, cloud *client, id ecowatt.DeviceID, asJSON bool, done string) error {
	if !asJSON {
		_, err := fmt.Fprintln(a.stdout, done)
		return err
	}
	var d api.Device
	if err := cloud.get(ctx, devicePath(id), nil, &d); err != nil {
		return err
	}
	return printJSON(a.stdout, d)
}

// rotationText says how far a rotation is.
func rotationText(r api.Rotation, now time.Time) string {
	text := fmt.Sprintf("to epoch %d, ", r.Epoch)
	switch {
	case r.OfferedAt != nil:
		text += "offered since " + localTime(*r.OfferedAt) + ", not in use yet"
	case r.OfferFrom.After(now):
		text += "offered from " + localTime(r.OfferFrom) + " on"
	default:
		text += "offered with the next answer"
	}
	if r.Burn {
		text += "; its use destroys all keys before it"
	}
	return text
}

func (a *app) newDeviceRecoverCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "recover ID",
		Short: "Let a device in that has lost all keys but its first",
		Long: `Let a device in that has lost all keys but its first, the one of its enrolment
file. For some time it may come with that key, but only to be given the next one;
it keeps its samples until then. The window closes when the next key is used.

Whoever has the enrolment file can come in its place: open the window when the
device is there to use it.`,
		Example: "  ecowatt device recover roof-1 --for 1h",
		Args:    arguments("ID"),
	}
	open := c.Flags().String("for", "1h", "for how long: 10m, 1h, 2d")
	closing := c.Flags().Bool("close", false, "close the window")
	c.MarkFlagsMutuallyExclusive("for", "close")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		span, err := parseSpan("--for", *open)
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		path := devicePath(id) + "/recovery"
		if *closing {
			if err := cloud.call(cmd.Context(), http.MethodDelete, path, nil, nil); err != nil {
				return err
			}
			return a.printDevice(cmd.Context(), cloud, id, *asJSON, "No recovery window is open.")
		}
		var opened api.Recovery
		if err := cloud.send(cmd.Context(), http.MethodPost, path, api.RecoveryOrder{ForS: wholeSeconds(span)}, &opened); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, opened)
		}
		_, err = fmt.Fprintf(a.stdout, "%s may come with its first key until %s, and is given that of epoch %d.\n",
			id, localTime(opened.RecoveryUntil), opened.Pending.Epoch)
		return err
	}
	return c
}
