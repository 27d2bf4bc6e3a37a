package profile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ecowatt"
	"ecowatt/inverter"
)

// Set is the embedded profiles and those in a folder of an installer. The zero
// Set has the embedded ones alone.
type Set struct {
	Dir string // files named as their profiles, ending in ".yaml"; "" for none
}

// Find returns the profile name: from the folder if it is there, whose file goes
// before an embedded one of the same name, else the embedded one. The error
// wraps ErrUnknown and names the profiles there are.
func (s Set) Find(name string) (inverter.Profile, error) {
	if _, err := ecowatt.ParseName("profile", name); err == nil && s.Dir != "" {
		p, err := Load(filepath.Join(s.Dir, name+suffix))
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	if slices.Contains(List(), name) {
		return embedded(name)
	}
	all, err := s.List()
	if err != nil {
		return inverter.Profile{}, err
	}
	return inverter.Profile{}, fmt.Errorf("%w %.80q; there are: %s", ErrUnknown, name, strings.Join(all, ", "))
}

// List returns the names of all profiles, sorted. Those of the folder are told
// by their files, which are not read. A folder that is not there is empty.
func (s Set) List() ([]string, error) {
	names := List()
	if s.Dir == "" {
		return names, nil
	}
	found, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the profiles: %w", err)
	}
	for _, f := range found {
		name, ok := strings.CutSuffix(f.Name(), suffix)
		if _, err := ecowatt.ParseName("profile", name); ok && err == nil && !f.IsDir() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Load reads the profile in file. The error tells all mistakes, as Parse does.
func Load(file string) (inverter.Profile, error) {
	f, err := os.Open(file)
	if err != nil {
		return inverter.Profile{}, fmt.Errorf("reading a profile: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return inverter.Profile{}, fmt.Errorf("reading a profile: %w", err)
	}
	return Parse(file, data)
}
