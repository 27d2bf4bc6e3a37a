package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ecowatt/agent/command"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// modbusSource reads an inverter by way of its bus.
type modbusSource struct {
	bus  *modbus.Bus
	pace modbus.Pace
}

// Read carries out one read.
func (s modbusSource) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	return s.bus.Do(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count, Pace: s.pace})
}

// Write carries out one write.
func (s modbusSource) Write(ctx context.Context, unit byte, w inverter.Write) error {
	function := modbus.WriteSingle
	if w.Multiple {
		function = modbus.WriteMultiple
	}
	_, err := s.bus.Do(ctx, modbus.Request{Unit: unit, Function: function, Address: w.Address, Values: w.Values, Pace: s.pace})
	return err
}

// dialModbus makes the lines of inverters: those behind one endpoint share a
// bus, on which one request waits for the other. Each is asked at the pace that
// it needs itself.
func dialModbus(inverters []InverterSettings) func(InverterSettings) command.Line {
	behind := map[modbus.Endpoint][]InverterSettings{}
	for _, in := range inverters {
		behind[in.Connect] = append(behind[in.Connect], in)
	}
	buses := map[modbus.Endpoint]*modbus.Bus{}
	for at, those := range behind {
		buses[at] = modbus.NewBus(at.Client(modbus.ClientOptions{Key: those[0].Key}), modbus.BusOptions{Gap: commonGap(those)})
	}
	return func(in InverterSettings) command.Line {
		return modbusSource{buses[in.Connect], modbus.Pace(in.Profile.Timing)}
	}
}

// commonGap is the gap that is kept between requests to any two inverters behind
// one endpoint. On a wire there is none: each listens to its own. Otherwise it is
// the one that all of them ask for, since it may be due to what connects them.
func commonGap(inverters []InverterSettings) time.Duration {
	if inverters[0].Connect.Kind == modbus.KindRTU {
		return 0
	}
	gap := inverters[0].Profile.Timing.Gap
	for _, in := range inverters[1:] {
		gap = min(gap, in.Profile.Timing.Gap)
	}
	return gap
}

// sameLine says what is wrong with two inverters that are reached by the same
// line, but not in the same way.
func sameLine(a, b InverterSettings) error {
	x, y := a.Connect, b.Connect
	switch {
	case x == y && a.KeyFile != b.KeyFile:
		return fmt.Errorf("key_file: it is another one than that of %s at the same address", a.Name)
	case x == y, x.Kind == modbus.KindHTTP, y.Kind == modbus.KindHTTP:
		return nil
	case x.Kind == modbus.KindRTU && x.Line.Device == y.Line.Device, x.Kind != modbus.KindRTU && x.Address == y.Address:
		return fmt.Errorf("connect: %v is the line of %s, which has %v: write them alike", y, a.Name, x)
	}
	return nil
}

// maxKey is the longest key, in bytes.
const maxKey = 1024

// readKeys reads the keys of inverters. Names of files are relative to dir.
func readKeys(inverters []InverterSettings, dir string) error {
	for i, in := range inverters {
		if in.KeyFile == "" {
			continue
		}
		name := in.KeyFile
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		var err error
		if inverters[i].Key, err = ReadKey(name); err != nil {
			return fmt.Errorf("inverters[%d]: key_file: %w", i, err)
		}
	}
	return nil
}

// ReadKey reads the key of an HTTP interface in a file that only its owner may
// read. Errors never tell what is in it.
func ReadKey(name string) (modbus.Key, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is no file", name)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("%s may be read by others: chmod 600 %s", name, name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey+2))
	if err != nil {
		return "", err
	}
	key := strings.TrimRight(string(data), "\r\n")
	if unprintable := func(c rune) bool { return c < ' ' || c > '~' }; key == "" || len(key) > maxKey || strings.ContainsFunc(key, unprintable) {
		return "", fmt.Errorf("%s has no key: a line of at most %d characters is expected", name, maxKey)
	}
	return modbus.Key(key), nil
}
