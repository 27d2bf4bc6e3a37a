package acquire

import (
	"slices"
	"time"
)

// Change goes on with other points, at another interval, or in the other way at
// night. It is called between two polls: the next one is in a tick that was not
// polled yet. The points are as in Inverter; an error leaves everything as it is.
func (p *Poller) Change(points []string, interval time.Duration, full bool) error {
	in := p.inverter
	in.Points, in.Interval, in.Full = points, interval, full
	if err := in.checkInterval(); err != nil {
		return err
	}
	found, groups := p.Found(), p.groups
	if !slices.Equal(points, p.inverter.Points) {
		found.Points = points
		if in.Find != nil {
			found.Points = pointsOf(found.Profile, points)
		}
		if groups != nil { // else what there is to read is not known yet
			var err error
			if groups, err = (Inverter{Name: in.Name, Profile: found.Profile, Points: found.Points}).groups(); err != nil {
				return err
			}
		}
	}
	before, ms := p.interval, interval.Milliseconds()
	for i, g := range groups {
		if same := slices.IndexFunc(p.groups, g.like); same >= 0 {
			groups[i] = p.groups[same] // what it has learned is still true
			groups[i].last = groups[i].last * before / ms
		}
	}
	if ms != before {
		p.tick = -1
	}
	p.inverter, p.groups, p.interval = in, groups, ms
	p.asleep = p.asleep && slices.Contains(found.Points, found.Profile.Sleeping.Point)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = found
	return nil
}
