package ecowatt

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseDeviceID(t *testing.T) {
	for _, good := range []string{"a", "roof-1", "7", "a.b_c-d", strings.Repeat("x", MaxNameLength)} {
		if id, err := ParseDeviceID(good); err != nil || string(id) != good {
			t.Errorf("ParseDeviceID(%q) = %q, %v", good, id, err)
		}
	}
	for _, bad := range []string{"", "-a", ".a", "_a", "A", "a b", "a/b", "ä", "a\n", "a\x00", strings.Repeat("x", MaxNameLength+1)} {
		if id, err := ParseDeviceID(bad); !errors.Is(err, ErrName) {
			t.Errorf("ParseDeviceID(%q) = %q, %v; want ErrName", bad, id, err)
		}
		if _, err := ParseName("inverter", bad); !errors.Is(err, ErrName) || !strings.HasPrefix(err.Error(), "inverter ") {
			t.Errorf("ParseName(%q): %v; want ErrName naming the inverter", bad, err)
		}
	}
}

func TestDecimal(t *testing.T) {
	for _, c := range []struct {
		raw      int64
		exponent int
		want     string
	}{
		{2301, -1, "230.1"},
		{0, -1, "0.0"},
		{5, -2, "0.05"},
		{-5, -2, "-0.05"},
		{-12345, -3, "-12.345"},
		{7, 0, "7"},
		{3, 2, "300"},
		{0, 3, "0"},
		{-3, 1, "-30"},
		{math.MinInt64, -10, "-922337203.6854775808"},
		{math.MaxInt64, 0, "9223372036854775807"},
	} {
		if got := Decimal(c.raw, c.exponent); got != c.want {
			t.Errorf("Decimal(%d, %d) = %q, want %q", c.raw, c.exponent, got, c.want)
		}
	}
}

func TestProduct(t *testing.T) {
	if len(Product) != 16 {
		t.Errorf("Product has %d bytes, want 16", len(Product))
	}
}
