package acquire

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"ecowatt/inverter"
)

// Find looks at an inverter for what it is: its profile. Reads that are not
// answered are tried again as others are. An error is one of read, or says that
// the inverter does not tell.
type Find func(ctx context.Context, read func(context.Context, inverter.Read) ([]uint16, error)) (inverter.Profile, error)

// Found is what is known of an inverter so far.
type Found struct {
	Profile inverter.Profile
	Points  []string          // names of what is read
	Texts   map[string]string // what it calls itself, by the names of the profile's texts; nil until it was read
	Layout  int               // counts changes of Profile and Points
	Changes int               // counts changes of anything above
}

// Found returns what is known of the inverter. Nobody may change it.
func (p *Poller) Found() Found {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found
}

// find makes sure that it is known what the inverter is, where that is to be
// found out: at the start, and when it may be another one since it was away.
func (p *Poller) find(ctx context.Context) error {
	if p.inverter.Find == nil || p.Status().State == Answering {
		return nil
	}
	budget, spoke := maxRetries, false
	read := func(ctx context.Context, r inverter.Read) ([]uint16, error) {
		for {
			words, err := p.readOne(ctx, r)
			spoke = spoke || answered(err)
			if !spoke || budget == 0 || !worthRetrying(err) || !pause(ctx, retryPause(maxRetries-budget)) {
				return words, err
			}
			budget--
		}
	}
	profile, err := p.inverter.Find(ctx, read)
	if err != nil {
		return fmt.Errorf("looking for what the inverter is: %w", err)
	}
	if p.groups != nil && reflect.DeepEqual(profile, p.Found().Profile) {
		return nil
	}
	return p.become(ctx, profile)
}

// become makes profile what is read from now on: of the points wanted those that
// it has.
func (p *Poller) become(ctx context.Context, profile inverter.Profile) error {
	in := p.inverter
	in.Profile, in.Points = profile, pointsOf(profile, p.inverter.Points)
	for _, name := range p.inverter.Points {
		if !slices.Contains(in.Points, name) {
			p.logger.WarnContext(ctx, "the inverter does not have a point that is to be read", "code", "point_unknown", "point", name)
		}
	}
	groups, err := newGroups(in)
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return fmt.Errorf("it has none of the points that are to be read, but %d others", len(profile.Registers))
	}
	p.groups = groups
	p.logger.InfoContext(ctx, "the inverter tells what it is", "code", "inverter_described", "title", profile.Title, "points", len(in.Points))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !reflect.DeepEqual(p.found.Profile, profile) || !slices.Equal(p.found.Points, in.Points) {
		p.found.Profile, p.found.Points = profile, in.Points
		p.found.Layout++
		p.found.Changes++
	}
	return nil
}

// pointsOf is those of the points wanted that a profile has: all of it where none
// are named.
func pointsOf(profile inverter.Profile, wanted []string) []string {
	if len(wanted) == 0 {
		return profile.PointNames()
	}
	var points []string
	for _, name := range wanted {
		if _, ok := profile.Register(name); ok {
			points = append(points, name)
		}
	}
	return points
}

// readTexts reads what the inverter calls itself. What it refuses, it does not
// have; what it does not answer is asked again in the next tick.
func (p *Poller) readTexts(ctx context.Context) {
	texts := map[string]string{}
	for _, t := range p.Found().Profile.Texts {
		words, err := p.readOne(ctx, t.Read())
		if err != nil && !answered(err) {
			return
		}
		if text := t.Decode(words); text != "" {
			texts[t.Name] = text
		}
	}
	p.read = true
	p.mu.Lock()
	defer p.mu.Unlock()
	if !maps.Equal(p.found.Texts, texts) {
		p.found.Texts = texts
		p.found.Changes++
	}
}
