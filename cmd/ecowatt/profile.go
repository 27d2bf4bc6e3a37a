package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/inverter/sunspec"
)

func (a *app) newProfileCommand() *cobra.Command {
	return group("profile", "See, check and make the register maps of inverters",
		a.newProfileListCommand(),
		a.newProfileShowCommand(),
		a.newProfileCheckCommand(),
		a.newProfileDiscoverCommand(),
	)
}

// profilesFlag names the folder of an installer's own profiles.
func profilesFlag(c *cobra.Command) *string {
	return c.Flags().String("profiles", "", "folder of further profiles, NAME.yaml; they go before those that come with the program")
}

// findProfile finds a profile by name, those of the folder dir included.
func findProfile(dir, name string) (inverter.Profile, error) {
	p, err := profile.Set{Dir: dir}.Find(name)
	if errors.Is(err, profile.ErrUnknown) {
		return p, &failure{code: exitNotFound, err: err}
	}
	return p, err
}

// profileRow is a profile in the JSON of "ecowatt profile list".
type profileRow struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Trust    string   `json:"trust"`
	Points   int      `json:"points"`
	Writable []string `json:"writable"`
	Source   string   `json:"source"`
}

func (a *app) newProfileListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the profiles there are",
		Long: `List the profiles there are: those that come with the program, and those in the
folder --profiles. Community ones rest on what users of such inverters have
published; nobody has tried them here. Only the points under WRITABLE can ever
be written.`,
		Example: "  ecowatt profile list\n  ecowatt profile list --profiles /var/lib/ecowatt/profiles",
		Args:    noArguments,
	}
	dir, asJSON := profilesFlag(c), jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		names, err := profile.Set{Dir: *dir}.List()
		if err != nil {
			return err
		}
		rows := []profileRow{}
		for _, name := range names {
			p, err := findProfile(*dir, name)
			if err != nil {
				return err
			}
			rows = append(rows, rowOf(p))
		}
		if *asJSON {
			return printJSON(a.stdout, rows)
		}
		t := newTable("NAME<", "POINTS", "WRITABLE<", "TRUST<", "TITLE<")
		for _, r := range rows {
			t.add(r.Name, strconv.Itoa(r.Points), orMissing(strings.Join(r.Writable, ", ")), r.Trust, r.Title)
		}
		return t.render(a.stdout)
	}
	return c
}

func rowOf(p inverter.Profile) profileRow {
	row := profileRow{Name: p.Name, Title: p.Title, Trust: p.Trust.String(), Points: len(p.Registers), Writable: []string{}, Source: p.Source}
	for _, r := range p.Registers {
		if r.Point.Writable {
			row.Writable = append(row.Writable, r.Point.Name)
		}
	}
	return row
}

func (a *app) newProfileShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a profile",
		Long: `Show a profile: what it rests on, and where each point stands. ADDRESS is the one
on the wire, counted from 0; documents of makers often tell the next one. With
--yaml, print it as a file, to begin one's own with.`,
		Example: "  ecowatt profile show solis\n  ecowatt profile show solis --yaml > profiles/my-solis.yaml",
		Args:    arguments("NAME"),
	}
	dir := profilesFlag(c)
	asYAML := c.Flags().Bool("yaml", false, "print a profile file")
	c.RunE = func(_ *cobra.Command, args []string) error {
		p, err := findProfile(*dir, args[0])
		if err != nil {
			return err
		}
		if *asYAML {
			_, err := a.stdout.Write(profile.Format(p))
			return err
		}
		fmt.Fprintf(a.stdout, "%s: %s\nsource: %s (%v)\nunit %d, at most %d registers in a read\n\n",
			p.Name, oneLine(p.Title), oneLine(p.Source), p.Trust, p.Unit, p.Block)
		return pointTable(p).render(a.stdout)
	}
	return c
}

// pointTable lists the points and texts of a profile.
func pointTable(p inverter.Profile) *table {
	t := newTable("POINT<", "TABLE<", "ADDRESS", "TYPE<", "SCALE<", "UNIT<", "POLL<", "WRITE<")
	for _, x := range p.Texts {
		t.add(x.Name, x.Table.String(), strconv.Itoa(int(x.Address)), fmt.Sprintf("string of %d", x.Words), missing, missing, inverter.Once.String(), missing)
	}
	for _, r := range p.Registers {
		scale, write, typ := ecowatt.Decimal(1, r.Point.Exponent), missing, r.Type.String()
		if r.Scale.Given {
			scale = fmt.Sprintf("by %d", r.Scale.Address)
		}
		if r.Order == inverter.LowFirst && r.Type.Words() > 1 {
			typ += " low"
		}
		if r.Point.Writable {
			write = fmt.Sprintf("%s … %s", ecowatt.Decimal(r.Point.Min, r.Point.Exponent), ecowatt.Decimal(r.Point.Max, r.Point.Exponent))
		}
		t.add(r.Point.Name, r.Table.String(), strconv.Itoa(int(r.Address)), typ, scale, orMissing(r.Point.Unit), r.Class.String(), write)
	}
	return t
}

func (a *app) newProfileCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a profile file",
		Long: `Check a profile file. Each mistake is told on a line of its own, with the line
in the file and the field; then the exit code is 1. The file's name must be that
of the profile, and .yaml.`,
		Example: "  ecowatt profile check profiles/my-solis.yaml",
		Args:    arguments("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := profile.Load(args[0])
			if errors.Is(err, fs.ErrNotExist) {
				return &failure{code: exitNotFound, err: err}
			}
			if err != nil {
				problems := strings.Split(err.Error(), "\n")
				for _, line := range problems {
					fmt.Fprintln(a.stdout, oneLine(line))
				}
				return fmt.Errorf("%s is no good profile; mistakes told: %d", args[0], len(problems))
			}
			row := rowOf(p)
			fmt.Fprintf(a.stdout, "%s: good; points: %d; writable: %s\n", p.Name, row.Points, orMissing(strings.Join(row.Writable, ", ")))
			return nil
		},
	}
}

func (a *app) newProfileDiscoverCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "discover modbus-tcp://HOST:PORT",
		Short: "Make a profile of what an inverter tells by SunSpec",
		Long: `Look for the SunSpec map of an inverter, at 40000, 50000 and 0, and print a
profile file with the points that were found and where they are. Nothing is
written to the inverter.`,
		Example: "  ecowatt profile discover modbus-tcp://192.168.1.20:502 --name roof > profiles/roof.yaml",
		Args:    arguments("modbus-tcp://HOST:PORT"),
	}
	name := c.Flags().String("name", "", "name of the profile, which is also that of its file")
	unit, key := c.Flags().Uint8("unit", 1, "unit id of the inverter"), keyFlag(c)
	timeout := c.Flags().Duration("timeout", modbus.DefaultTimeout, "how long to wait for each answer")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := modbus.ParseEndpoint(args[0])
		if err != nil {
			return usagef("%w", err)
		}
		if _, err := ecowatt.ParseName("--name", *name); err != nil {
			return usagef("%w", err)
		}
		if *timeout <= 0 {
			return usagef("--timeout: %v is no time to wait", *timeout)
		}
		o := modbus.ClientOptions{Timeout: *timeout}
		if o.Key, err = readKeyOf(at, *key); err != nil {
			return err
		}
		client := at.Client(o)
		p, err := discover(cmd.Context(), client.Do, *name, *unit)
		if err = errors.Join(err, client.Close()); err != nil {
			return hinted(fmt.Errorf("%v: %w", at, err), "Is SunSpec switched on in the inverter, and are address and unit right?")
		}
		_, err = a.stdout.Write(profile.Format(p))
		return err
	}
	return c
}

// discover makes a profile of the SunSpec map of a unit that do reaches.
func discover(ctx context.Context, do modbus.Handler, name string, unit byte) (inverter.Profile, error) {
	found, err := sunspec.Discover(ctx, func(ctx context.Context, address, count uint16) ([]uint16, error) {
		return do(ctx, modbus.Request{Unit: unit, Function: modbus.ReadHolding, Address: address, Count: count})
	})
	if err != nil {
		return inverter.Profile{}, err
	}
	return found.Profile(name, unit)
}
