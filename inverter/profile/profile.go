// Package profile holds the profiles of inverters that EcoWatt knows, as
// files, and reads profile files strictly: a mistake in one is told with its
// file, line and field.
package profile

import (
	"embed"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"ecowatt/inverter"
)

// ErrUnknown says that there is no profile of a name.
var ErrUnknown = errors.New("unknown profile")

const suffix = ".yaml"

//go:embed *.yaml
var files embed.FS

// List returns the names of the embedded profiles, sorted.
func List() []string {
	found, err := files.ReadDir(".")
	if err != nil {
		panic("the embedded profiles: " + err.Error())
	}
	var names []string
	for _, f := range found {
		names = append(names, strings.TrimSuffix(f.Name(), suffix))
	}
	slices.Sort(names)
	return names
}

// Find returns the embedded profile name. The error wraps ErrUnknown and names
// the profiles there are.
func Find(name string) (inverter.Profile, error) { return Set{}.Find(name) }

// embedded returns an embedded profile that there is.
func embedded(name string) (inverter.Profile, error) {
	file := name + suffix
	data, err := files.ReadFile(file)
	if err != nil {
		return inverter.Profile{}, fmt.Errorf("reading profile %s: %w", name, err)
	}
	return Parse(file, data)
}

// named reports whether the profile in file may have the name name: they must
// agree, so that a name leads to its file.
func named(file, name string) bool {
	return strings.TrimSuffix(filepath.Base(file), suffix) == name
}
