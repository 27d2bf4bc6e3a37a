package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ecowatt/inverter/profile"
	"ecowatt/sim"
)

// simulated are the inverters that --inverter describes, or else --profile and
// --inverters.
func (f simFlags) simulated() ([]sim.Inverter, error) {
	if len(f.described) == 0 {
		x, err := f.mapped(f.profile)
		if err != nil {
			return nil, fmt.Errorf("--profile: %w", err)
		}
		row, err := sim.Row(x, f.inverters)
		if err != nil {
			return nil, usagef("--inverters: %w", err)
		}
		return row, nil
	}
	var all []sim.Inverter
	for _, text := range f.described {
		row, err := f.describe(text)
		if err != nil {
			return nil, fmt.Errorf("--inverter %.100s: %w", text, err)
		}
		for _, x := range row {
			if slices.ContainsFunc(all, func(o sim.Inverter) bool { return o.Unit == x.Unit }) {
				return nil, usagef("--inverter %.100s: the unit %d is there already", text, x.Unit)
			}
			all = append(all, x)
		}
	}
	return all, nil
}

// mapped is an inverter with the register map name.
func (f simFlags) mapped(name string) (sim.Inverter, error) {
	if name == sim.SunSpecName {
		return sim.Inverter{Unit: 1, SunSpec: sim.SunSpec{Base: 40000}}, nil
	}
	p, err := profile.Set{Dir: f.profiles}.Find(name)
	return sim.Inverter{Unit: p.Unit, Profile: p}, err
}

// describe reads what --inverter says: fields with values, between commas.
func (f simFlags) describe(text string) ([]sim.Inverter, error) {
	fields, err := simFields(text)
	if err != nil {
		return nil, err
	}
	name := "ecowatt-sim"
	if given, ok := fields["profile"]; ok {
		name = given
	}
	x, err := f.mapped(name)
	if err != nil {
		return nil, err
	}
	count, unit, base, s := 1, int(x.Unit), int(x.SunSpec.Base), &x.SunSpec
	for field, to := range map[string]*int{"unit": &unit, "count": &count, "base": &base, "phases": &s.Phases} {
		text, given := fields[field]
		if !given {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, usagef("%s: %.40q is no whole number", field, text)
		}
		*to = int(n)
	}
	if unit < 1 || unit > sim.LastUnit {
		return nil, usagef("unit: %d is not within 1 and %d", unit, sim.LastUnit)
	}
	x.Unit, s.Base = byte(unit), uint16(base)
	if given, ok := fields["models"]; ok {
		i := slices.IndexFunc(sim.AllModels(), func(m sim.Models) bool { return m.String() == given })
		if i < 0 {
			return nil, usagef("models: %.40q is none of %v", given, sim.AllModels())
		}
		s.Models = sim.AllModels()[i]
	}
	if _, ok := fields["phases"]; ok && s.Phases == 0 {
		return nil, usagef("phases: 0 is not within 1 and 3")
	}
	if name != sim.SunSpecName {
		for _, field := range []string{"base", "models", "phases"} {
			if _, ok := fields[field]; ok {
				return nil, usagef("%s: only a profile=%s has it", field, sim.SunSpecName)
			}
		}
	} else if err := s.Check(); err != nil {
		return nil, usagef("%w", err)
	}
	row, err := sim.Row(x, count)
	if err != nil {
		return nil, usagef("count: %w", err)
	}
	return row, nil
}

// simFields divides a description into its fields.
func simFields(text string) (map[string]string, error) {
	known := []string{"unit", "profile", "count", "base", "models", "phases"}
	fields := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		field, value, ok := strings.Cut(part, "=")
		if !ok || !slices.Contains(known, field) {
			return nil, usagef("%.40q is no field with a value; there are %s", part, strings.Join(known, ", "))
		}
		if _, twice := fields[field]; twice {
			return nil, usagef("%s stands twice", field)
		}
		fields[field] = value
	}
	return fields, nil
}
