package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/cloud/api"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
	"ecowatt/wire"
)

// measuredPoints are what the inverter of this test has.
var measuredPoints = []ecowatt.Point{
	{Name: "pac", Unit: "W"},
	{Name: "vac1", Unit: "V", Exponent: -1},
	{Name: "energy_total", Unit: "kWh", Exponent: -2},
	{Name: "energy_today", Unit: "Wh"},
}

const (
	pacColumn, totalColumn, todayColumn = 0, 2, 3
	minuteMS, quarterMS                 = 60_000, 900_000
)

// taken is a sample, or a window of so many ms in place of samples.
type taken struct {
	at, window int64
	values     []windowed
}

// windowed is what a window says of a point; of a sample the three are one.
type windowed struct{ least, mean, most, count int64 }

// drawTaken draws what an inverter measured from a time on: with gaps, missing
// values, false zeros, counters that are reset or go over their end, and windows.
func drawTaken(r *rapid.T, at int64) (all []taken) {
	has := [4]bool{rapid.Bool().Draw(r, "pac"), true, rapid.Bool().Draw(r, "total"), rapid.Bool().Draw(r, "today")}
	counters := [4]int64{totalColumn: rapid.SampledFrom([]int64{100, 65_520}).Draw(r, "from"), todayColumn: 5}
	for range rapid.IntRange(1, 50).Draw(r, "samples") {
		at += rapid.SampledFrom([]int64{2000, minuteMS, 5 * minuteMS, quarterMS, quarterMS + 1, 6 * 60 * minuteMS, 23 * 60 * minuteMS}).Draw(r, "dt")
		x := taken{window: rapid.SampledFrom([]int64{0, 0, 0, 0, minuteMS, quarterMS}).Draw(r, "window")}
		if x.window != 0 {
			at = (at + x.window - 1) / x.window * x.window
		}
		x.at = at
		for i := range measuredPoints {
			v := windowed{count: 1}
			if v.least = rapid.Int64Range(-3, 5000).Draw(r, "value"); i >= totalColumn {
				v.least = counters[i]
			}
			v.mean, v.most = v.least, v.least
			if x.window != 0 {
				v.most = max(v.least, min(v.most+rapid.Int64Range(0, 9).Draw(r, "more"), 1<<16-1))
				v.mean, v.count = (v.least+v.most)/2, rapid.Int64Range(1, 30).Draw(r, "count")
			}
			if i >= totalColumn {
				counters[i] = drawCounter(r, v.most, i == totalColumn)
			}
			switch {
			case !has[i] || rapid.IntRange(0, 5).Draw(r, "gone") == 0:
				v = windowed{}
			case i >= totalColumn && x.window == 0 && rapid.IntRange(0, 9).Draw(r, "false zero") == 0:
				v = windowed{count: 1}
			}
			x.values = append(x.values, v)
		}
		all = append(all, x)
		if x.window != 0 {
			at += x.window
		}
	}
	return all
}

// drawCounter is what a counter says next.
func drawCounter(r *rapid.T, at int64, total bool) int64 {
	switch next := at + rapid.Int64Range(0, 9).Draw(r, "counted"); {
	case total && next >= 1<<16:
		return next - 1<<16
	case rapid.IntRange(0, 15).Draw(r, "reset") == 0:
		return rapid.Int64Range(0, 3).Draw(r, "reset to")
	default:
		return next
	}
}

// drawSent cuts what was taken into blocks as devices send them, puts them into any
// order, and some in twice. From some sample on the points have another order.
func drawSent(tb testing.TB, r *rapid.T, all []taken) (messages []ingest.Message) {
	tb.Helper()
	other := rapid.IntRange(0, len(all)).Draw(r, "other order")
	for i := 0; i < len(all); {
		n := 1
		for most := rapid.IntRange(1, 12).Draw(r, "block"); n < most && i+n < len(all) && i+n != other && all[i+n].window == all[i].window; {
			n++
		}
		b := sentBlock(tb, all[i:i+n], i >= other)
		m := ingest.Message{ID: [16]byte{byte(len(messages)), 1}, Kind: ingest.KindTelemetry, Block: &b}
		for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(r, "times") {
			messages = append(messages, m)
		}
		i += n
	}
	return rapid.Permutation(messages).Draw(r, "sent")
}

// sentBlock is samples of one kind as the gateway hands them on.
func sentBlock(tb testing.TB, all []taken, turned bool) ingest.Block {
	tb.Helper()
	b := ecowatt.Block{Inverter: "inv1", Window: all[0].window}
	order := []int{0, 1, 2, 3}
	if turned {
		slices.Reverse(order)
	}
	for _, i := range order {
		b.Points = append(b.Points, measuredPoints[i].Name)
	}
	for _, x := range all {
		s := ecowatt.Sample{At: x.at}
		for _, i := range order {
			v := x.values[i]
			value := func(raw int64) ecowatt.Value { return ecowatt.Value{Raw: raw, Valid: v.count > 0} }
			if b.Window == 0 {
				s.Values = append(s.Values, value(v.mean))
			} else {
				s.Values = append(s.Values, value(v.mean), value(v.least), value(v.most), ecowatt.Known(v.count))
			}
		}
		b.Samples = append(b.Samples, s)
	}
	t, err := wire.PlainBlock(b, nil)
	if err != nil {
		tb.Fatal(err)
	}
	checked, err := ingest.Check(ingest.Telemetry{
		Inverter: t.Inverter, Points: t.Points, T0: t.T0, Codec: t.Codec, Count: t.Count, Data: t.Data, Window: t.Window,
	}, time.UnixMilli(all[len(all)-1].at))
	if err != nil {
		tb.Fatal(err)
	}
	return checked
}

// bounded is the bucket that a time is in.
type bounded func(at int64) (begin, end int64)

// worked is the buckets of what was taken, worked out value by value.
func worked(all []taken, bounds bounded) map[int64]api.Bucket {
	buckets := map[int64]api.Bucket{}
	for _, x := range all {
		if !slices.ContainsFunc(x.values, func(v windowed) bool { return v.count > 0 }) {
			continue
		}
		begin, end := bounds(x.at)
		b, ok := buckets[begin]
		if !ok {
			b = api.Bucket{T: begin, End: end, Values: make([]*api.BucketValue, len(x.values))}
		}
		for i, v := range x.values {
			switch is := b.Values[i]; {
			case v.count == 0:
			case is == nil:
				b.Values[i] = &api.BucketValue{Min: v.least, Max: v.most, Mean: float64(v.mean), Count: v.count}
			default:
				is.Mean = (is.Mean*float64(is.Count) + float64(v.mean*v.count)) / float64(is.Count+v.count)
				is.Min, is.Max, is.Count = min(is.Min, v.least), max(is.Max, v.most), is.Count+v.count
			}
		}
		buckets[begin] = b
	}
	return buckets
}

// read is a value of the source of energy, and of which bucket what came before it is.
type read struct{ at, raw, of int64 }

// workedEnergy is the energy of buckets, Wh, and its source.
func workedEnergy(all []taken, bounds bounded) (wh map[int64]float64, source string) {
	for _, column := range []int{totalColumn, todayColumn, pacColumn} {
		wh = map[int64]float64{}
		var last *read
		for _, x := range all {
			v := x.values[column]
			of, _ := bounds(x.at)
			for i, r := range []read{{x.at, v.least, of}, {x.at + max(x.window-1, 0), v.most, of}} {
				if column == pacColumn {
					r = read{x.at + int64(i)*x.window, v.mean, of}
				}
				if v.count == 0 || column != pacColumn && r.raw <= 0 {
					continue
				}
				wh[of] += 0
				if last != nil && (column != pacColumn || r.at > last.at) {
					wh[of] += gained(column, *last, r)
				}
				last = &r
			}
		}
		if last != nil {
			return wh, map[bool]string{true: "integrated", false: "counter"}[column == pacColumn]
		}
	}
	return nil, ""
}

// gained is the energy between two readings, Wh.
func gained(column int, a, b read) float64 {
	step := float64(b.raw - a.raw)
	switch {
	case column == pacColumn && b.at-a.at <= quarterMS:
		return float64(a.raw+b.raw) / 2 * float64(b.at-a.at) / 3_600_000
	case column == pacColumn:
		return 0
	case column == todayColumn && step < 0:
		return float64(b.raw)
	case column == todayColumn:
		return step
	case step < 0 && a.raw > 61_440 && b.raw < 4096:
		step += 1 << 16
	}
	return max(step, 0) * 10 // of 10 Wh
}

// Whatever comes in whatever order, the API answers with what all samples say: by
// steps of any length, by days of 23, 24 and 25 hours, and what energy that was.
func TestCurvesOfTheAPI(t *testing.T) {
	o := newOperator(t)
	o.withStore(func(ctx context.Context, s *store.Store) error {
		devices := int64(0)
		rapid.Check(t, func(r *rapid.T) {
			devices++
			name := fmt.Sprintf("roof-%d", devices)
			zone := rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"}).Draw(r, "zone")
			place, err := time.LoadLocation(zone)
			if err != nil {
				r.Fatal(err)
			}
			o.ask(ctx, http.MethodPost, "/devices", fmt.Sprintf(`{"id":%q,"time_zone":%q}`, name, zone), nil)
			begin := rapid.SampledFrom([]time.Time{time.Date(2025, 3, 29, 12, 0, 0, 0, time.UTC), time.Date(2025, 10, 25, 12, 0, 0, 0, time.UTC)}).Draw(r, "begin")
			all := drawTaken(r, begin.UnixMilli())
			messages := drawSent(t, r, all)
			inventory := &registry.Inventory{ReportedAt: begin, Inverters: []registry.Inverter{{Name: "inv1", Points: measuredPoints}}}
			err = s.Commit(ctx, func(tx *store.Tx) error {
				for _, m := range messages {
					if _, err := tx.Take(devices, m, begin); err != nil {
						return err
					}
				}
				_, err := tx.Report(devices, registry.Report{At: begin, Inventory: inventory})
				return err
			})
			if err != nil {
				r.Fatal(err)
			}
			for step, bounds := range map[string]bounded{
				"1m": every(minuteMS), "5m": every(5 * minuteMS), "15m": every(quarterMS), "6h": every(24 * quarterMS), "1d": days(place),
			} {
				checkCurve(ctx, r, o, asked{name, step, bounds}, all)
			}
		})
		return nil
	})
}

// every is buckets of so many ms.
func every(size int64) bounded {
	return func(at int64) (begin, end int64) { return at / size * size, at/size*size + size }
}

// days is the days of a place where clocks are never changed at midnight.
func days(place *time.Location) bounded {
	return func(at int64) (begin, end int64) {
		y, m, d := time.UnixMilli(at).In(place).Date()
		return time.Date(y, m, d, 0, 0, 0, 0, place).UnixMilli(), time.Date(y, m, d+1, 0, 0, 0, 0, place).UnixMilli()
	}
}

// asked is the curve of a device that is asked for.
type asked struct {
	device, step string
	bounds       bounded
}

func checkCurve(ctx context.Context, r *rapid.T, o *operator, a asked, all []taken) {
	want := worked(all, a.bounds)
	source := ""
	if a.step != "1m" && a.step != "5m" { // energy is there by quarters
		var wh map[int64]float64
		wh, source = workedEnergy(all, a.bounds)
		for begin, e := range wh {
			b := want[begin]
			b.Energy = &e
			want[begin] = b
		}
	}
	about := cmpopts.EquateApprox(1e-9, 1e-6)
	query := "/devices/" + a.device + "/telemetry?from=0&step=" + a.step
	if diff := cmp.Diff(want, o.buckets(ctx, r, query+"&points=pac,vac1,energy_total,energy_today", source), about); diff != "" {
		r.Fatalf("by %s (-want +got):\n%s", a.step, diff)
	}
	if source == "" {
		return
	}
	for begin, b := range want {
		b.Values = []*api.BucketValue{}
		want[begin] = b
	}
	if diff := cmp.Diff(want, o.buckets(ctx, r, query+"&only=energy", source), about); diff != "" {
		r.Fatalf("energy by %s (-want +got):\n%s", a.step, diff)
	}
}

// buckets are those of an answer, by their begin; they must come in order, each once.
func (o *operator) buckets(ctx context.Context, r *rapid.T, query, source string) map[int64]api.Bucket {
	var answer api.Curves
	o.ask(ctx, http.MethodGet, query, "", &answer)
	buckets, last := map[int64]api.Bucket{}, int64(math.MinInt64)
	for _, c := range answer.Inverters {
		if c.EnergySource != source {
			r.Fatalf("%s: the source of energy is %q, want %q", query, c.EnergySource, source)
		}
		for _, b := range c.Buckets {
			if b.T < last {
				r.Fatalf("%s: %d comes after %d", query, b.T, last)
			}
			last = b.End
			buckets[b.T] = b
		}
	}
	return buckets
}

// ask asks the API, and decodes the answer into it unless that is nil.
func (o *operator) ask(ctx context.Context, method, path, body string, into any) {
	o.t.Helper()
	token, err := os.ReadFile(o.env["ECOWATT_TOKEN_FILE"])
	if err != nil {
		o.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, o.env["ECOWATT_URL"]+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusMultipleChoices {
		o.t.Fatalf("%s %s: %s", method, path, answer.Status)
	}
	if into == nil {
		return
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		o.t.Fatalf("%s: %v", path, err)
	}
}
