package sim

import (
	"slices"

	"ecowatt/inverter"
)

// meaning is the value of an enum, whose values have names, that says what an
// inverter does; false where none of the names means that it works. Makers have
// no word for everything: those that come closest stand behind.
func meaning(names []inverter.Name, s Status) (float64, bool) {
	working := []string{"tracking", "run", "running", "normal", "on grid", "ok", "closed"}
	if s == Producing {
		return find(names, working)
	}
	if _, ok := find(names, working); !ok {
		return 0, false
	}
	var words []string
	switch s {
	case Sleeping:
		words = []string{"sleeping", "no irradiation", "initial standby", "standby", "waiting", "off", "stop", "open"}
	case Waiting:
		words = []string{"waiting", "standby", "off", "stop", "open", "fault"}
	case Limited:
		words = []string{"throttled", "on grid, power limited", "dispatch"}
	case Derated:
		words = []string{"throttled", "on grid, derating by itself", "derating"}
	case Producing:
	}
	return find(names, append(words, working...))
}

// find is the number of the first of words that is a name.
func find(names []inverter.Name, words []string) (float64, bool) {
	for _, w := range words {
		if i := slices.IndexFunc(names, func(n inverter.Name) bool { return n.Text == w }); i >= 0 {
			return float64(names[i].Number), true
		}
	}
	return 0, false
}

// bits are those that are set of a bitfield whose bits have names; false where
// none of the names is known.
func bits(names []inverter.Name, p page) (float64, bool) {
	set := map[string]bool{
		"AC over voltage":  p.alarm&AlarmOverVoltage != 0,
		"over temperature": p.alarm&AlarmHot != 0,
		"connected":        p.status != Waiting,
		"available":        p.status != Sleeping,
		"operating":        p.pac > 0,
		"WMax":             p.status == Limited,
		"fixed W":          p.status == Limited,
	}
	sum, known := 0.0, false
	for _, n := range names {
		on, ok := set[n.Text]
		known = known || ok
		if on {
			sum += float64(uint64(1) << n.Number)
		}
	}
	return sum, known
}
