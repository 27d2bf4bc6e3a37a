package sunspec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
)

// refusal is what a device says of an address that it does not have.
type refusal struct{}

func (refusal) Error() string       { return "no such address" }
func (refusal) ExceptionCode() byte { return 2 }

// device holds words from base on, and refuses all others and long reads.
type device struct {
	base  int
	words []uint16
	reads int
}

func (d *device) read(_ context.Context, address, count uint16) ([]uint16, error) {
	d.reads++
	at := int(address) - d.base
	if at < 0 || at+int(count) > len(d.words) || count > 125 {
		return nil, refusal{}
	}
	return slices.Clone(d.words[at : at+int(count)]), nil
}

// signed are the offsets of what is not implemented when it is 0x8000: signed
// numbers and scale factors.
func signed(id uint16) []int {
	span := func(first, last int) (all []int) {
		for i := first; i <= last; i++ {
			all = append(all, i)
		}
		return all
	}
	switch id {
	case 101, 103:
		return append([]int{6, 13, 26, 28, 30}, append(span(14, 23), span(31, 37)...)...)
	case 120:
		return []int{4}
	case 121:
		return []int{22}
	case 123:
		return []int{23}
	case 160:
		return span(2, 5)
	case 701:
		return append(append(span(10, 14), span(35, 45)...), append([]int{68, 91}, span(113, 122)...)...)
	}
	return nil
}

// model is a model of a length, with what stands at offsets from its ID; all
// else is not implemented.
func model(id, length uint16, words map[int][]uint16) []uint16 {
	m := slices.Repeat([]uint16{0xffff}, int(length)+2)
	m[0], m[1] = id, length
	for _, offset := range signed(id) {
		m[offset] = 0x8000
	}
	if id == 101 || id == 103 { // the counter
		m[24], m[25] = 0, 0
	}
	for offset, w := range words {
		copy(m[offset:], w)
	}
	return m
}

func text(s string, words int) []uint16 {
	b := append([]byte(s), make([]byte, 2*words)...)
	w := make([]uint16, words)
	for i := range w {
		w[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
	}
	return w
}

func float(f float32) []uint16 {
	bits := math.Float32bits(f)
	return []uint16{uint16(bits >> 16), uint16(bits)}
}

func commonModel() []uint16 {
	return model(1, 66, map[int][]uint16{2: text("Fronius", 16), 18: text("Primo GEN24", 16), 34: text("", 8), 42: text("1.2", 8), 50: text("34119102", 16)})
}

func image(models ...[]uint16) []uint16 {
	words := []uint16{0x5375, 0x6e53}
	for _, m := range models {
		words = append(words, m...)
	}
	return append(words, 0xffff, 0)
}

// legacy is an inverter with scale factors, two strings and a limit.
func legacy() []uint16 {
	return image(commonModel(),
		model(101, 50, map[int][]uint16{
			2: {1742, 1742}, 6: {0xfffe}, 10: {2312}, 13: {0xffff}, 14: {0xfe0c, 1}, 16: {4999, 0xfffe}, 24: {0x0098, 0x9680, 0},
			33: {0xff9c}, 37: {0xffff}, 38: {4}, 40: {0, 0x0011},
		}),
		model(120, 26, map[int][]uint16{3: {500, 1}}),
		model(999, 5, nil), // nobody knows it
		model(121, 30, map[int][]uint16{2: {4600}, 22: {0}}),
		model(122, 44, map[int][]uint16{2: {7}, 5: {0, 0, 0, 5}, 35: {0, 1}}),
		model(123, 24, map[int][]uint16{5: {10000}, 7: {0}, 9: {0}, 23: {0xfffe}}),
		model(160, 48, map[int][]uint16{2: {0xfffe, 0xffff, 0, 0x8000}, 8: {2}, 19: {512, 3801, 1946}, 39: {0xffff, 0xffff, 0xffff}}),
	)
}

func TestDiscover(t *testing.T) {
	for _, base := range []int{40000, 50000, 0} {
		d := &device{base: base, words: legacy()}
		found, err := Discover(t.Context(), d.read)
		if err != nil {
			t.Fatalf("at %d: %v", base, err)
		}
		var got []string
		for _, m := range found.Models {
			got = append(got, fmt.Sprint(m.ID, "@", int(m.Address)-base))
		}
		want := "1@2 101@70 120@122 999@150 121@157 122@189 123@235 160@261"
		if strings.Join(got, " ") != want || int(found.Base) != base {
			t.Errorf("at %d: %s at %d, want %s", base, got, found.Base, want)
		}
	}
}

// values reads the points of p from d, as people see them.
func values(t *testing.T, d *device, p inverter.Profile) map[string]string {
	t.Helper()
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	var words [][]uint16
	for _, r := range plan.Reads() {
		w, err := d.read(t.Context(), r.Address, r.Count)
		if err != nil {
			t.Fatalf("reading %v: %v", r, err)
		}
		words = append(words, w)
	}
	got := map[string]string{}
	for i, v := range plan.Decode(words) {
		r := plan.Registers()[i]
		if v.Valid {
			got[r.Point.Name] = strings.TrimSpace(ecowatt.Decimal(v.Raw, r.Point.Exponent) + " " + r.Point.Unit + " " + r.Describe(v.Raw))
		}
	}
	return got
}

func profileOf(t *testing.T, d *device) inverter.Profile {
	t.Helper()
	found, err := Discover(t.Context(), d.read)
	if err != nil {
		t.Fatal(err)
	}
	p, err := found.Profile("roof", 7)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProfileWithScaleFactors(t *testing.T) {
	d := &device{base: 40000, words: legacy()}
	p := profileOf(t, d)
	want := map[string]string{
		"iac": "17.420 A", "iac1": "17.420 A", "vac1": "231.20 V", "pac": "-5000.0 W", "fac1": "49.990 Hz", "energy_total": "10000000 Wh",
		"temp": "-10.00 °C", "state": "4  tracking", "events": "17  ground fault, grid disconnected", "rated_power": "5000 W", "max_power": "4600 W",
		"connection": "7  connected, available, operating", "active_controls": "1  fixed W",
		"ipv1": "5.120 A", "vpv1": "380.10 V", "ppv1": "1946.0 W", "export_power_percent": "100.00 %",
	}
	if diff := cmp.Diff(want, values(t, d, p)); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if p.Title != "Fronius Primo GEN24 by SunSpec" || p.Unit != 7 || p.Name != "roof" {
		t.Errorf("%q, %q, unit %d", p.Name, p.Title, p.Unit)
	}
	for _, name := range []string{"iac2", "vac3"} {
		if _, ok := p.Register(name); ok {
			t.Errorf("an inverter with one phase has %s", name)
		}
	}
	if s := p.Sleeping; s.Point != "state" || !slices.Equal(s.Values, []int64{2}) {
		t.Errorf("sleeping: %+v", s)
	}
	serial := p.Texts[slices.IndexFunc(p.Texts, func(t inverter.Text) bool { return t.Name == inverter.Serial })].Read()
	if w, _ := d.read(t.Context(), serial.Address, serial.Count); (inverter.Text{}).Decode(w) != "34119102" {
		t.Errorf("serial number at %v", serial)
	}

	d.words[70+15] = 2 // the scale factor of W changes while it runs
	if got := values(t, d, p)["pac"]; got != "-50000.0 W" {
		t.Errorf("with a scale factor that has changed: %s", got)
	}
	for _, bad := range []uint16{0x8000, 11, 0xfff5} {
		d.words[70+15] = bad
		if got, ok := values(t, d, p)["pac"]; ok {
			t.Errorf("with the scale factor %d: %s", int16(bad), got)
		}
	}
}

func TestLimitOf123(t *testing.T) {
	p := profileOf(t, &device{base: 40000, words: legacy()})
	writes, err := p.Writes("export_power_percent", 5000)
	const at = 40000 + 235
	want := []inverter.Write{{Address: at + 5, Values: []uint16{5000}}, {Address: at + 9, Values: []uint16{1}}}
	if diff := cmp.Diff(want, writes); err != nil || diff != "" {
		t.Errorf("%v; writes (-want +got):\n%s", err, diff)
	}
	writes, err = p.Release("export_power_percent")
	if diff := cmp.Diff([]inverter.Write{{Address: at + 9, Values: []uint16{0}}}, writes); err != nil || diff != "" {
		t.Errorf("%v; release (-want +got):\n%s", err, diff)
	}
	r, _ := p.Register("export_power_percent")
	if diff := cmp.Diff([]inverter.Setting{{Place: inverter.Place{Address: at}, Value: 123}}, r.Control.Requires); diff != "" {
		t.Errorf("what must stand there (-want +got):\n%s", diff)
	}
	if c := r.Control; r.Point.Min != 100 || r.Point.Max != 10000 || c.Proof != "pac" || c.Fallback.Timer.Address != at+7 || c.Fallback.HasValue {
		t.Errorf("limit %+v, %+v", r.Point, c)
	}
}

func TestProfileWithFloats(t *testing.T) {
	d := &device{base: 50000, words: image(commonModel(), model(113, 60, map[int][]uint16{
		2: float(7.25), 4: float(2.5), 6: {0x7fc0, 0}, 8: {0x7fc0, 0}, 16: float(230.126), 18: float(0), 20: {0x7fc0, 1}, 22: float(1234.56), 24: float(50.01),
		26: {0x7fc0, 0}, 28: {0x7fc0, 0}, 30: {0x7fc0, 0}, 32: float(1e6), 34: {0x7fc0, 0}, 36: {0x7fc0, 0}, 38: {0x7fc0, 0},
		40: float(-3.5), 42: {0x7fc0, 0}, 48: {2}, 50: {0, 0},
	}))}
	want := map[string]string{
		"iac": "7.250 A", "iac1": "2.500 A", "vac1": "230.13 V", "vac2": "0.00 V", "pac": "1234.6 W", "fac1": "50.010 Hz",
		"energy_total": "1000000 Wh", "temp": "-3.50 °C", "state": "2  sleeping", "events": "0",
	}
	if diff := cmp.Diff(want, values(t, d, profileOf(t, d))); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestProfileOf1547(t *testing.T) {
	d := &device{base: 0, words: image(commonModel(),
		model(701, 153, map[int][]uint16{
			4: {3}, 6: {0, 0}, 10: {8000}, 14: {120}, 17: {0, 50000}, 19: {0, 0, 1, 2}, 36: {250}, 45: {40}, 47: {2301}, 110: {12},
			113: {0xffff, 0xffff, 0xfffd, 0, 0x8000, 0x8000, 0x8000, 1, 0x8000, 0xffff},
		}),
		model(702, 50, map[int][]uint16{2: {1000}, 26: {900}, 45: {1}}),
		model(704, 65, map[int][]uint16{14: {0}, 15: {1000}, 16: {300}, 18: {0, 600}, 54: {0xffff}}),
		model(123, 24, map[int][]uint16{5: {100}, 9: {1}, 23: {0}}),
	)}
	p := profileOf(t, d)
	want := map[string]string{
		"pac": "8000.0 W", "iac": "12.000 A", "fac1": "50.000 Hz", "energy_total": "655380 Wh", "temp": "25.00 °C", "iac1": "4.000 A", "vac1": "230.10 V",
		"state": "3  tracking", "events": "0", "throttled_percent": "12 %", "rated_power": "10000 W", "max_power": "9000 W", "export_power_percent": "100.0 %",
	}
	if diff := cmp.Diff(want, values(t, d, p)); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	r, _ := p.Register("export_power_percent") // of 704, which can fail safe
	at := uint16(2 + 68 + 155 + 52)
	if f := r.Control.Fallback; r.Address != at+15 || f.Timer != (inverter.Place{Address: at + 18, Type: inverter.U32}) || f.Value.Address != at+16 || !f.HasValue || r.Control.Gate.Address != at+14 {
		t.Errorf("limit %+v, %+v", r, r.Control)
	}
}

// Strings too far from their scale factors to be read with them in one request
// are bound to those found.
func TestManyStrings(t *testing.T) {
	words := map[int][]uint16{2: {0xfffe, 0xffff, 0, 0}, 8: {8}}
	for i := range 8 {
		words[10+20*i+9] = []uint16{uint16(100 + i), 3000, 500}
	}
	d := &device{base: 40000, words: image(commonModel(), model(103, 50, nil), model(160, 8+8*20, words))}
	got := values(t, d, profileOf(t, d))
	if got["ipv1"] != "1.000 A" || got["ipv8"] != "1.07 A" || got["vpv8"] != "300.0 V" {
		t.Errorf("got %v", got)
	}
}

// A point that an inverter does not have is not made up.
func TestWhatIsNotImplemented(t *testing.T) {
	d := &device{base: 40000, words: image(commonModel(), model(103, 50, nil), model(120, 26, nil),
		model(123, 24, nil), model(160, 28, map[int][]uint16{8: {0xffff}}))}
	p := profileOf(t, d)
	if got := values(t, d, p); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	for _, name := range []string{"export_power_percent", "rated_power"} {
		if _, ok := p.Register(name); ok {
			t.Errorf("there is a %s without its scale factor", name)
		}
	}
}

func TestDiscoverRefuses(t *testing.T) {
	silent := errors.New("no answer")
	long := slices.Repeat(model(2, 1, nil), 65)
	for _, c := range []struct {
		name  string
		words []uint16
		want  string
	}{
		{"no marker", []uint16{1, 2, 3}, "no SunSpec map at 40000 50000 0"},
		{"length 0", []uint16{0x5375, 0x6e53, 103, 0}, "impossible length of 0"},
		{"length beyond the end", []uint16{0x5375, 0x6e53, 103, 0xfff0}, "impossible length"},
		{"model cut off", []uint16{0x5375, 0x6e53, 103, 50, 1, 2}, "reading the SunSpec model 103 at 40002"},
		{"nothing behind the marker", []uint16{0x5375, 0x6e53}, "reading the SunSpec model at 40002"},
		{"too many", append([]uint16{0x5375, 0x6e53}, long...), "more than 64 models"},
	} {
		d := &device{base: 40000, words: c.words}
		if _, err := Discover(t.Context(), d.read); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
	reads := 0
	_, err := Discover(t.Context(), func(context.Context, uint16, uint16) ([]uint16, error) { reads++; return nil, silent })
	if !errors.Is(err, silent) || reads != 1 {
		t.Errorf("nothing answers: %v after %d reads", err, reads)
	}
	words := legacy()
	d := &device{base: 40000, words: words[:len(words)-2]} // without the end of the chain
	if found, err := Discover(t.Context(), d.read); err != nil || len(found.Models) != 8 {
		t.Errorf("without the last model: %d models, %v", len(found.Models), err)
	}
	if _, err := (Device{Models: []Model{{ID: 1}}}).Profile("p", 1); err == nil {
		t.Error("a profile without a point")
	}
}

// official is the extract of the models' own description.
type official struct {
	Models map[string][][]any `json:"models"`
}

// TestTables holds the tables against the extract: name, place, type, scale
// factor, and that what is written may be.
func TestTables(t *testing.T) {
	data, err := os.ReadFile("testdata/models.json")
	if err != nil {
		t.Fatal(err)
	}
	var o official
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]kind{
		"int16": int16s, "uint16": uint16s, "uint32": uint32s, "uint64": uint64s, "acc32": acc32, "acc64": acc64,
		"enum16": enum16, "bitfield16": bits16, "bitfield32": bits32, "float32": float32s,
	}
	find := func(id uint16, name string) []any {
		for _, p := range o.Models[fmt.Sprint(id)] {
			if p[0] == name {
				return p
			}
		}
		t.Errorf("model %d has no point %s", id, name)
		return nil
	}
	check := func(id uint16, prefix string, p point) {
		q := find(id, prefix+p.name)
		if q == nil {
			return
		}
		offset, typ, sf := int(q[1].(float64)), q[2].(string), int(q[3].(float64))
		if want := kinds[typ]; offset != p.offset || want != p.kind || sf != p.sf {
			t.Errorf("model %d: %s at %d, kind %v, scale factor at %d; want %d, %s, %d", id, p.name, p.offset, p.kind, p.sf, offset, typ, sf)
		}
		if p.as == limitPoint && q[4] != "RW" {
			t.Errorf("model %d: %s is written, but may not be", id, p.name)
		}
	}
	checked := 0
	for _, table := range tables() {
		for _, id := range table.ids {
			for _, p := range table.points {
				check(id, "", p)
				checked++
			}
			for _, p := range table.group.points {
				check(id, "module.", p)
				checked++
			}
			if g := table.group; g.size > 0 {
				if n := find(id, "N"); int(n[1].(float64)) != g.count {
					t.Errorf("model %d: the number of modules is at %v", id, n[1])
				}
			}
		}
	}
	if checked < 130 {
		t.Errorf("only %d points were checked", checked)
	}
	for _, c := range []struct {
		id     uint16
		name   string
		offset int
		typ    string
	}{
		{1, "Mn", 2, "string"},
		{1, "Md", 18, "string"},
		{1, "Vr", 42, "string"},
		{1, "SN", 50, "string"},
		{123, "WMaxLim_Ena", 9, "enum16"},
		{123, "WMaxLimPct_RvrtTms", 7, "uint16"},
		{704, "WMaxLimPctEna", 14, "enum16"},
		{704, "WMaxLimPctRvrt", 16, "uint16"},
		{704, "WMaxLimPctRvrtTms", 18, "uint32"},
	} {
		if q := find(c.id, c.name); q != nil && (int(q[1].(float64)) != c.offset || q[2] != c.typ) {
			t.Errorf("model %d: %s is %v at %v", c.id, c.name, q[2], q[1])
		}
	}
}

// FuzzDiscover: whatever a device holds, what comes of it is a profile that can
// be planned, or an error.
func FuzzDiscover(f *testing.F) {
	seed := func(words []uint16) (b []byte) {
		for _, w := range words {
			b = append(b, byte(w>>8), byte(w))
		}
		return b
	}
	f.Add(seed(legacy()))
	f.Add(seed(image(commonModel(), model(704, 65, nil), model(701, 153, nil))))
	f.Fuzz(func(t *testing.T, data []byte) {
		words := make([]uint16, len(data)/2)
		for i := range words {
			words[i] = uint16(data[2*i])<<8 | uint16(data[2*i+1])
		}
		d := &device{base: 40000, words: words}
		found, err := Discover(t.Context(), d.read)
		if err != nil {
			return
		}
		p, err := found.Profile("p", 1)
		if err != nil {
			return
		}
		if _, err := p.Plan(p.PointNames()); err != nil {
			t.Error(err)
		}
	})
}

// An inverter that is more exact than usual when it is found loses nothing.
func TestMoreExactThanUsual(t *testing.T) {
	d := &device{base: 40000, words: legacy()}
	d.words[70+14], d.words[70+15] = 1234, 0xfffd
	p := profileOf(t, d)
	if got := values(t, d, p)["pac"]; got != "1.234 W" {
		t.Errorf("with a scale factor of -3: %s", got)
	}
	d.words[70+15] = 0xfffb // and later it is even more so
	if got := values(t, d, p)["pac"]; got != "0.012 W" {
		t.Errorf("with a scale factor of -5: %s", got)
	}
}

// code is an exception.
type code byte

func (c code) Error() string       { return fmt.Sprintf("exception %02x", byte(c)) }
func (c code) ExceptionCode() byte { return byte(c) }

// TestDiscoverIsWhole: when an inverter has no time, or its gateway does not reach
// it, the search fails wherever it is: a part of an inverter is never taken for all
// of it.
func TestDiscoverIsWhole(t *testing.T) {
	d := &device{base: 50000, words: legacy()}
	found, err := Discover(t.Context(), d.read)
	if err != nil {
		t.Fatal(err)
	}
	for at := range d.reads {
		for _, c := range []code{0x05, 0x06, 0x0a, 0x0b} {
			reads := 0
			got, err := Discover(t.Context(), func(ctx context.Context, address, count uint16) ([]uint16, error) {
				if reads++; reads == at+1 {
					return nil, c
				}
				return d.read(ctx, address, count)
			})
			if !errors.Is(err, c) {
				t.Errorf("%v at read %d of %d: %d of %d models, %v", c, at, d.reads, len(got.Models), len(found.Models), err)
			}
		}
	}
}

// TestSteady: that a scale factor happened to be another one is no change; that a
// point stands elsewhere is.
func TestSteady(t *testing.T) {
	d := &device{base: 40000, words: legacy()}
	first := profileOf(t, d)
	if got := Steady(inverter.Profile{}, first); cmp.Diff(first, got) != "" {
		t.Error("the first one is not as it was found")
	}
	d.words[70+15] = 0xfffd // W is more exact
	again := profileOf(t, d)
	if cmp.Diff(first, again) == "" {
		t.Fatal("there is nothing to keep steady")
	}
	if diff := cmp.Diff(first, Steady(first, again)); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
	other := profileOf(t, &device{base: 40000, words: append(slices.Clone(legacy()[:70]), legacy()[122:]...)}) // without model 101
	if diff := cmp.Diff(other, Steady(first, other)); diff != "" {
		t.Errorf("another inverter (-found +steady):\n%s", diff)
	}
	if _, ok := Steady(first, other).Register("pac"); ok {
		t.Error("it has what it does not have")
	}
}
