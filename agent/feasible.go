package agent

import (
	"fmt"
	"time"

	"ecowatt/agent/acquire"
	"ecowatt/agent/config"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// checkPolls says why the inverters cannot be polled at the interval: because the
// requests alone take longer. How long answers take is not counted, for it is not
// known.
func (d *device) checkPolls(v parameter.Values) error {
	interval := config.Seconds(v[parameter.SamplingInterval])
	lines := map[modbus.Endpoint]time.Duration{}
	for i, in := range d.settings.Inverters {
		line, all := leastPoll(in, d.pollers[i].Found().Profile, pointsOf(in, v))
		lines[in.Connect] += line
		if all > interval {
			return fmt.Errorf("polling %s takes at least %v, longer than the interval of %v", in.Name, all, interval)
		}
	}
	for at, takes := range lines {
		if takes > interval {
			return fmt.Errorf("polling all inverters at %v takes at least %v, longer than the interval of %v", at, takes, interval)
		}
	}
	return nil
}

// leastPoll is how long a poll of the points takes at least: of the line that
// others may use as well, and with the pauses that the inverter needs.
func leastPoll(in InverterSettings, p inverter.Profile, points []string) (line, all time.Duration) {
	plan, err := p.Plan(ofClass(p, points, inverter.Fast))
	if err != nil {
		return 0, 0 // it is not known yet what there is to read
	}
	for _, r := range plan.Reads() {
		t := time.Duration(0)
		if baud := in.Connect.Line.Baud; baud > 0 {
			length := 8 + 5 + 2*int(r.Count)
			t = time.Duration(length) * bitsOfByte * time.Second / time.Duration(baud)
		}
		line += t
		all += t + p.Timing.Gap
	}
	return line, all
}

// bitsOfByte is how many bits a byte takes on a serial line, at least.
const bitsOfByte = 10

// ofClass returns those of the points that are of a class; all, where none are named.
func ofClass(p inverter.Profile, points []string, class inverter.Class) []string {
	if len(points) == 0 {
		points = p.PointNames()
	}
	var of []string
	for _, name := range points {
		if r, ok := p.Register(name); ok && r.Class == class {
			of = append(of, name)
		}
	}
	return of
}

// What a sample takes at least, in bytes, beside its values.
const sampleBytes = 2

// checkUploads says why the samples of a slot cannot be uploaded: because they are
// more than the requests of a slot carry or the buffer holds. What they pack to is
// not known; they are counted with the least that is plausible. A payload cap makes
// them fit, as windows.
func (d *device) checkUploads(v parameter.Values) error {
	slot, window := config.Seconds(v[parameter.UploadInterval]), config.Seconds(v[parameter.AggregationWindow])
	period := max(config.Seconds(v[parameter.SamplingInterval]), window)
	columns, valueBytes := int64(1), int64(1)
	if window > 0 {
		columns = 4
	}
	if v[parameter.Compression] == "none" {
		valueBytes = 2
	}
	total := int64(0)
	for i, in := range d.settings.Inverters {
		p, points := d.pollers[i].Found().Profile, pointsOf(in, v)
		for class, every := range map[inverter.Class]time.Duration{inverter.Fast: period, inverter.Slow: max(period, acquire.SlowPeriod)} {
			names := ofClass(p, points, class)
			if len(names) > 0 {
				total += int64(slot/every) * (sampleBytes + int64(len(names))*columns*valueBytes)
			}
		}
	}
	if most := min(maxRequests*int64(wire.MessageRoom(wire.MaxRequest)), d.settings.BufferLimit); total > most && v[parameter.PayloadCap] == int64(0) {
		return fmt.Errorf("the samples of %v are at least %d bytes; a slot carries and the buffer holds %d", slot, total, most)
	}
	return nil
}
