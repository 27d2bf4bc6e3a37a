//go:build unix

package sim

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ecowatt/internal/disk"
	"ecowatt/inverter/modbus"
)

// BenchmarkAgent is what a second of ten inverters, each read once, costs: the
// pollers, the buses, a connection to each inverter, and the buffer. It reports
// the share of a core, that of the simulator in the same process included.
func BenchmarkAgent(b *testing.B) {
	const inverters = 10
	s := newSimulator(b, Options{Inverters: ours(inverters), Speed: 1e-9})
	address := serve(b, s).String()
	a := newStation(b, simProfile(b), disk.OS(b.TempDir()))
	for i := range inverters {
		bus := modbus.NewBus(modbus.NewClient(address, modbus.ClientOptions{}), modbus.BusOptions{})
		b.Cleanup(func() { bus.Close() })
		a.add(b, fmt.Sprint("inv", i), byte(17+i), time.Second, bus)
	}
	seconds := 0
	second := func() {
		for i := range a.pollers {
			if err := a.poll(b.Context(), i); err != nil {
				b.Fatal(err)
			}
		}
		if seconds++; seconds%10 != 0 { // as often as the agent does
			return
		}
		if err := a.buffer.Flush(time.Duration(a.now()) * time.Millisecond); err != nil {
			b.Fatal(err)
		}
	}
	second()
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		second()
	}
	used := (cpu(b) - before) / time.Duration(b.N)
	for _, p := range a.pollers {
		if n := p.Status().Samples; n != uint64(b.N)+1 {
			b.Errorf("%d samples of %d polls", n, b.N+1)
		}
	}
	b.ReportMetric(100*used.Seconds(), "%core")
}

// cpu is the time that this process has had on a core.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
