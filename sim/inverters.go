package sim

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ecowatt/inverter"
)

// Inverter is one of those that are simulated. Its registers are those of a
// profile or, without one, of a SunSpec map.
type Inverter struct {
	Unit    byte             // 1 … 247
	Profile inverter.Profile // points of it that no inverter here has have no value, or 0
	SunSpec SunSpec
}

// SunSpecName stands for a SunSpec map where a profile is named.
const SunSpecName = "sunspec"

// LastUnit is that of the last single device: Modbus over Serial Line V1.02,
// section 2.2.
const LastUnit = 247

// Row returns n inverters like x, with its unit and those that follow. The error
// says that there are not so many units.
func Row(x Inverter, n int) ([]Inverter, error) {
	if most := LastUnit - int(x.Unit) + 1; n < 1 || n > most {
		return nil, fmt.Errorf("%d inverters are not within 1 and %d", n, most)
	}
	row := slices.Repeat([]Inverter{x}, n)
	for i := range row {
		row[i].Unit += byte(i)
	}
	return row, nil
}

// name is that of the register map.
func (x Inverter) name() string { return cmp.Or(x.Profile.Name, SunSpecName) }

// layOut lays out the registers, and returns the points that no inverter here
// has.
func (x Inverter) layOut() (layout, []string, error) {
	if x.Profile.Name == "" {
		l, err := x.SunSpec.layOut(x.Unit)
		return l, nil, err
	}
	return newLayout(x.Profile)
}

func checkInverters(all []Inverter) error {
	if len(all) == 0 {
		return errors.New("there is no inverter")
	}
	var seen [256]bool
	for _, x := range all {
		switch {
		case x.Unit < 1 || x.Unit > LastUnit:
			return fmt.Errorf("unit %d is not within 1 and %d", x.Unit, LastUnit)
		case seen[x.Unit]:
			return fmt.Errorf("unit %d is there twice", x.Unit)
		}
		seen[x.Unit] = true
	}
	return nil
}

// Doing is what an inverter does, in truth.
type Doing struct {
	Unit         byte    `json:"unit"`
	Profile      string  `json:"profile"`
	Status       string  `json:"status"` // sleeping, waiting, producing, limited or derated
	PowerW       float64 `json:"power_w"`
	EnergyWh     float64 `json:"energy_total_wh"`
	LimitPercent float64 `json:"limit_percent"`    // as it can be read back
	InForce      float64 `json:"in_force_percent"` // as it is kept to
	FallsBackInS float64 `json:"falls_back_in_s"`  // 0: it does not
}

// Inverters tells what the inverters do, whatever they show of it.
func (s *Simulator) Inverters() []Doing {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.pass(now)
	all := make([]Doing, len(s.faces))
	for i, p := range s.site.plants {
		f, x := &s.faces[i], s.options.Inverters[i]
		all[i] = Doing{
			Unit: x.Unit, Profile: x.name(), Status: p.now.status.String(), PowerW: math.Round(p.now.pac), EnergyWh: math.Round(p.energy.Total),
			LimitPercent: f.limit, InForce: p.limit, FallsBackInS: math.Round(10*f.left(now)) / 10,
		}
	}
	return all
}

// units names the units and their maps, for people: as "1:sunspec 17-19:ecowatt-sim".
func units(all []Inverter) string {
	var b strings.Builder
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].name() == all[i].name() && int(all[j].Unit) == int(all[j-1].Unit)+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprint(&b, all[i].Unit)
		if j > i+1 {
			fmt.Fprintf(&b, "-%d", all[j-1].Unit)
		}
		b.WriteString(":" + all[i].name())
		i = j
	}
	return b.String()
}
