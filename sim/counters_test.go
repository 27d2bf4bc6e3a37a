package sim

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// direct reads an inverter without a line between.
type direct struct{ *Simulator }

func (d direct) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	return d.Handle(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
}

// TestCounters: a counter that drops to 0 once, as some do at night, is missing
// then, and no other value stands in for it; one that begins again, at midnight
// or after the most that fits, is taken for what it is.
func TestCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, Options{Weather: still{}})
		p := inverter.Profile{Name: "counters", Unit: 17, Block: 10, Registers: []inverter.Register{
			{Point: ecowatt.Point{Name: energyToday, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 102, Type: inverter.U32},
			{Point: ecowatt.Point{Name: energyTotal, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 104, Type: inverter.U32, Step: 1000},
		}}
		poller, err := acquire.New(acquire.Inverter{Name: "inv", Unit: 17, Profile: p, Points: p.PointNames(), Interval: 5 * time.Second}, direct{s}, slog.New(slog.DiscardHandler), 0)
		if err != nil {
			t.Fatal(err)
		}
		const most = float64(1<<32-1) * 10 // Wh that fit
		var got []string
		for i, e := range []Energy{
			{Today: 500, Total: 70_000},
			{Today: 510, Total: 70_010},
			{Today: 0, Total: 0}, // for once
			{Today: 530, Total: 70_030},
			{Today: 0, Total: 70_030}, // midnight
			{Today: 10, Total: most},  // and from now on it is another inverter
			{Today: 20, Total: most - 10},
			{Today: 30, Total: most + 10}, // once round
			{Today: 40, Total: most + 20},
		} {
			s.site.plants[0].energy = e
			for _, b := range poller.Poll(t.Context(), int64(i)*5000) {
				text := ""
				for _, v := range b.Sample.Values {
					if !v.Valid {
						text += " -"
						continue
					}
					text += fmt.Sprint(" ", v.Raw)
				}
				got = append(got, text)
			}
			time.Sleep(5 * time.Second)
		}
		want := []string{" 50 7000", " 51 7001", " 0 -", " 53 7003", " 0 7003", " 1 -", " 2 4294967294", " 3 -", " 4 1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
