package ingest

import (
	"testing"

	"ecowatt"
	"ecowatt/cloud/rollup"
)

// Made anew, a quarter that begins and ends with samples and has windows between
// them has the energy that lies between the one and the other, too.
func TestQuartersOfSamplesAndWindows(t *testing.T) {
	start := taken / rollup.Chunk * rollup.Chunk
	points := []string{"pac", "energy_total"}
	sample := func(minute, watts, counted int64) ecowatt.Sample {
		return ecowatt.Sample{At: start + minute*rollup.Minute, Values: []ecowatt.Value{ecowatt.Known(watts), ecowatt.Known(counted)}}
	}
	var blocks []Block
	for _, b := range []ecowatt.Block{
		{Samples: []ecowatt.Sample{sample(8, 60, 108), sample(9, 60, 109)}},
		{Window: rollup.Minute, Samples: ecowatt.Aggregate([]ecowatt.Sample{sample(4, 60, 104), sample(5, 60, 105), sample(6, 60, 106)}, 0, rollup.Minute)},
		{Samples: []ecowatt.Sample{sample(1, 60, 101), sample(2, 60, 102)}},
	} {
		b.Inverter, b.Points = "roof", points
		checked, err := Check(received(t, b, nil), now)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, checked)
	}
	got, err := Quarters(blocks, start)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if s := got[0].Series[0]; s.Area != 2*60*8*rollup.Minute { // from the first minute to the ninth
		t.Errorf("2 × 60 W over %v min, want 8", s.Area/2/60/rollup.Minute)
	}
	if s := got[0].Series[1]; s.Gain != 8 || s.First.Raw != 101 || s.Last.Raw != 109 {
		t.Errorf("the counter: %+v", s)
	}
}
