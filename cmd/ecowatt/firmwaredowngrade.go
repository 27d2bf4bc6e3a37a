package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/firmware"
)

// downgrade is what firmware downgrade is asked for.
type downgrade struct {
	statement             firmware.Downgrade
	product, expires, out string
}

func (a *app) newFirmwareDowngradeCommand() *cobra.Command {
	var q downgrade
	c := &cobra.Command{
		Use:   "downgrade",
		Short: "Allow devices to go back to an earlier release",
		Long: `Make a statement that devices which run one release may install an earlier one. It
goes with the rollout of that release, and counts when enough release keys have signed
it; who is not here signs later, with 'ecowatt firmware sign'. It must expire, or name
devices, or both. A device that does not know the time goes back by none that expires,
and no device goes back behind its security version.`,
		Example: "  ecowatt firmware downgrade --from 12 --to 11 --expires 2027-01-31 --key release-1.key",
		Args:    noArguments,
	}
	f, d := c.Flags(), &q.statement
	f.Uint64Var(&d.From, "from", 0, "release that runs")
	f.Uint64Var(&d.To, "to", 0, "earlier release that may be installed")
	f.StringVar(&q.expires, "expires", "", "when it ends (default: never)")
	f.StringArrayVar(&d.Devices, "device", nil, "id of a device that it is for; may be given again (default: all)")
	f.StringVar(&q.product, "product", productText(firmware.ProductID([]byte(ecowatt.Product))), "product that it is for")
	f.StringVar(&q.out, "out", "", "the file (default downgrade-FROM-TO)")
	files, from, asJSON := keysFlag(c), phraseFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := q.unsigned()
		if err != nil {
			return err
		}
		if err := mustBeNew(q.out); err != nil {
			return err
		}
		keys, err := a.readSigningKeys(cmd.Context(), from, *files)
		if err != nil {
			return err
		}
		if e, err = signAll(firmware.StatementDowngrade, e, keys); err != nil {
			return err
		}
		b, err := e.Encode()
		if err != nil {
			return err
		}
		err = writeNew(q.out, 0o644, func(w io.Writer) error {
			_, err := w.Write(b)
			return err
		})
		if err != nil {
			return err
		}
		info := statementInfo{Downgrade: new(showDowngrade(q.statement, e))}
		if *asJSON {
			return printJSON(a.stdout, info)
		}
		if what, signed := info.line(); len(signed) > 0 {
			_, err = fmt.Fprintf(a.stdout, "%s carries signatures of %s. It is %s.\n", what, strings.Join(signed, ", "), q.out)
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "It is %s. Sign it: ecowatt firmware sign %s --key KEY\n", q.out, q.out)
		return err
	}
	return c
}

// unsigned completes the statement from the flags.
func (q *downgrade) unsigned() (firmware.Envelope, error) {
	d := &q.statement
	switch {
	case d.From == 0:
		return firmware.Envelope{}, usagef("--from is missing: the release that runs")
	case d.To == 0:
		return firmware.Envelope{}, usagef("--to is missing: the release that may be installed")
	case d.To >= d.From:
		return firmware.Envelope{}, usagef("--to: release %d is not earlier than %d", d.To, d.From)
	case q.expires == "" && len(d.Devices) == 0:
		return firmware.Envelope{}, usagef("--expires is missing, or --device: a statement for all devices has to end")
	}
	for _, id := range d.Devices {
		if _, err := ecowatt.ParseDeviceID(id); err != nil {
			return firmware.Envelope{}, usagef("--device: %v", err)
		}
	}
	slices.Sort(d.Devices)
	d.Devices = slices.Compact(d.Devices)
	var err error
	if d.Product, err = parseProduct(q.product); err != nil {
		return firmware.Envelope{}, err
	}
	if q.expires != "" {
		at, err := parseTime("--expires", q.expires)
		if err != nil {
			return firmware.Envelope{}, err
		}
		d.Expires = at.Unix()
	}
	if q.out == "" {
		q.out = fmt.Sprintf("downgrade-%d-%d", d.From, d.To)
	}
	return d.Unsigned()
}
