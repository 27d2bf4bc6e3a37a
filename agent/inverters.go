package agent

import (
	"errors"
	"fmt"
	"slices"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

// Limits of the inverters of one agent.
const (
	maxInverters = 32
	maxPoints    = 256 // in one telemetry block, see cloud/ingest
)

// InverterSettings says how one inverter is reached and what is read from it.
type InverterSettings struct {
	Name    string
	Connect modbus.Endpoint
	KeyFile string     // has the key of an HTTP interface; "" for none
	Key     modbus.Key // what was in it
	Unit    byte       // Modbus unit id
	Profile inverter.Profile
	SunSpec bool     // the inverter tells its profile itself
	Points  []string // names, in the order of the values; of SunSpec those that are wanted, none for all
}

type inverterFile struct {
	Name    string   `yaml:"name"`
	Connect string   `yaml:"connect"`
	KeyFile string   `yaml:"key_file"`
	Unit    *int     `yaml:"unit"`
	Profile string   `yaml:"profile"`
	Points  []string `yaml:"points"`
}

func (file settingsFile) inverters(profiles profile.Set) ([]InverterSettings, error) {
	switch n := len(file.Inverters); {
	case n == 0:
		return nil, errors.New("inverters: none is given, there is nothing to read")
	case n > maxInverters:
		return nil, fmt.Errorf("inverters: %d are given, at most %d can be read by one agent", n, maxInverters)
	}
	var all []InverterSettings
	for i, given := range file.Inverters {
		in, err := given.check(profiles)
		if err != nil {
			return nil, fmt.Errorf("inverters[%d]: %w", i, err)
		}
		if slices.ContainsFunc(all, func(o InverterSettings) bool { return o.Name == in.Name }) {
			return nil, fmt.Errorf("inverters[%d]: name: %q stands twice", i, in.Name)
		}
		for _, o := range all {
			if err := sameLine(o, in); err != nil {
				return nil, fmt.Errorf("inverters[%d]: %w", i, err)
			}
		}
		all = append(all, in)
	}
	return all, nil
}

func (given inverterFile) check(profiles profile.Set) (in InverterSettings, err error) {
	if in.Name, err = ecowatt.ParseName("name", given.Name); err != nil {
		return in, err
	}
	if in.Connect, err = modbus.ParseEndpoint(given.Connect); err != nil {
		return in, fmt.Errorf("connect: %w", err)
	}
	in.Profile, err = profiles.Find(given.Profile)
	if in.SunSpec = given.Profile == SunSpecProfile && errors.Is(err, profile.ErrUnknown); in.SunSpec {
		in.Profile, err = inverter.Profile{Name: SunSpecProfile, Unit: 1}, nil
	}
	if err != nil {
		return in, fmt.Errorf("profile: %w", err)
	}
	if in.KeyFile = given.KeyFile; in.KeyFile != "" && in.Connect.Kind != modbus.KindHTTP {
		return in, errors.New("key_file: only an http address has a key")
	}
	if in.Unit, err = given.unit(in); err != nil {
		return in, err
	}
	if in.Points = given.Points; in.SunSpec {
		return in, checkWanted(in.Points)
	}
	if len(in.Points) == 0 {
		in.Points = in.Profile.PointNames()
	}
	if err := checkPoints(in.Profile, in.Points); err != nil {
		return in, fmt.Errorf("points: %w", err)
	}
	return in, nil
}

// unit is the unit id of in. Modbus TCP has room for more than a line, where 0
// speaks to all and nobody answers (Modbus over Serial Line V1.02, section 2.2;
// Modbus Messaging on TCP/IP Implementation Guide V1.0b, section 4.4.2).
func (given inverterFile) unit(in InverterSettings) (byte, error) {
	least, most, unit := 1, 247, int(in.Profile.Unit)
	if in.Connect.Kind == modbus.KindTCP {
		least, most = 0, 255
	}
	if given.Unit != nil {
		unit = *given.Unit
	}
	if unit < least || unit > most {
		return 0, fmt.Errorf("unit: %d is not within %d and %d", unit, least, most)
	}
	return byte(unit), nil
}

// checkWanted checks names of points that may turn out to be there.
func checkWanted(names []string) error {
	if len(names) > maxPoints {
		return fmt.Errorf("points: %d are read; the cloud takes at most %d of an inverter", len(names), maxPoints)
	}
	for i, name := range names {
		if _, err := ecowatt.ParseName("points", name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("points: %q stands twice", name)
		}
	}
	return nil
}

func checkPoints(p inverter.Profile, names []string) error {
	if len(names) > maxPoints {
		return fmt.Errorf("%d are read; the cloud takes at most %d of an inverter: choose some", len(names), maxPoints)
	}
	_, err := p.Plan(names)
	return err
}
