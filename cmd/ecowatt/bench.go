package main

import (
	"context"
	"fmt"
	"math"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/block"
	"ecowatt/inverter/profile"
)

func (a *app) newBenchCommand() *cobra.Command {
	return group("bench", "Measure what EcoWatt costs",
		a.newBenchBlockCommand(),
		a.newBenchExchangeCommand(),
	)
}

func (a *app) newBenchBlockCommand() *cobra.Command {
	var o recordingOptions
	var sizes []int
	c := &cobra.Command{
		Use:   "block FILE.csv[.gz]",
		Short: "Measure the block codec on recorded samples",
		Long: `Measure the block codec on recorded samples: bytes per sample and ns per value,
beside other ways to pack the same blocks:

  registers     8 bytes of time, 2 bytes per point
  zstd, Go      zig-zag first differences in columns, as variable-length numbers,
                packed by the best level of the Go library (about zstd's level 11)
  zstd -19      the same, packed by the program zstd, where it is installed
  block         codec 1, with head and checksum

FILE has a header with the columns time (RFC 3339), perhaps inverter, and points
of the profile ecowatt-sim, each with its unit: vac1_v, iac1_a, fac1_hz, temp_c,
pac_w, … They become registers as the profile has them, pac in units of 10 W, or
of 100, where that makes it fit 16 bits; a missing export_power_percent is 100.
Other columns are left out. An empty cell is a missing value.

Blocks are of consecutive samples of one inverter; the last may be shorter. Each
is decoded again and compared.`,
		Example: "  ecowatt bench block roof.csv.gz --samples 450,60 --inverters inv04,inv05",
		Args:    arguments("FILE.csv[.gz]"),
	}
	c.Flags().IntSliceVar(&sizes, "samples", []int{450, 60}, "samples in a block, one column of the answer for each number")
	c.Flags().StringSliceVar(&o.inverters, "inverters", nil, "only these inverters (default all)")
	c.Flags().BoolVar(&o.night, "night", false, "also samples in which pac is not above 0")
	c.Flags().StringToIntVar(&o.gains, "gains", nil, "other gains of points: iac1=100,ipv1=100")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		for _, n := range sizes {
			if n < 1 || n > block.MaxSamples {
				return usagef("--samples: %d is not within 1 and %d", n, block.MaxSamples)
			}
		}
		var err error
		if o.profile, err = profile.Find("ecowatt-sim"); err != nil {
			return err
		}
		if err := o.check(); err != nil {
			return err
		}
		rec, err := openRecording(args[0], o)
		if err != nil {
			return err
		}
		report := benchReport{Points: rec.points, Samples: rec.samples()}
		for _, n := range sizes {
			r, err := benchBlocks(cmd.Context(), rec, n)
			if err != nil {
				return fmt.Errorf("%s: blocks of %d samples: %w", args[0], n, err)
			}
			report.Blocks = append(report.Blocks, r)
		}
		if *asJSON {
			return printJSON(a.stdout, report)
		}
		return report.print(a)
	}
	return c
}

// benchReport is the JSON of "ecowatt bench block".
type benchReport struct {
	Points  []string      `json:"points"`
	Samples int           `json:"samples"`
	Blocks  []benchResult `json:"blocks"`
}

// benchResult is what blocks of one size cost, in bytes per sample.
type benchResult struct {
	Samples   int      `json:"samples"` // in a block
	Registers float64  `json:"registers"`
	ZstdGo    float64  `json:"zstd_go"`
	Zstd19    *float64 `json:"zstd_19"` // null where the program zstd is missing
	Block     float64  `json:"block"`
	EncodeNS  float64  `json:"encode_ns"` // per value
	DecodeNS  float64  `json:"decode_ns"` // per value
}

func (r benchReport) print(a *app) error {
	if _, err := fmt.Fprintf(a.stdout, "%d samples of %d points: %s\n\n", r.Samples, len(r.Points), strings.Join(r.Points, ", ")); err != nil {
		return err
	}
	headings := []string{"bytes per sample<"}
	for _, b := range r.Blocks {
		headings = append(headings, fmt.Sprintf("blocks of %d", b.Samples))
	}
	t := newTable(headings...)
	row := func(name string, digits int, number func(b benchResult) *float64) {
		cells := []string{name}
		for _, b := range r.Blocks {
			cell := ""
			if n := number(b); n != nil {
				cell = strconv.FormatFloat(*n, 'f', digits, 64)
			}
			cells = append(cells, orMissing(cell))
		}
		t.add(cells...)
	}
	row("registers", 2, func(b benchResult) *float64 { return &b.Registers })
	row("zstd, Go", 2, func(b benchResult) *float64 { return &b.ZstdGo })
	row("zstd -19", 2, func(b benchResult) *float64 { return b.Zstd19 })
	row("block", 2, func(b benchResult) *float64 { return &b.Block })
	row("block / zstd, Go", 3, func(b benchResult) *float64 { return ratio(b.Block, &b.ZstdGo) })
	row("block / zstd -19", 3, func(b benchResult) *float64 { return ratio(b.Block, b.Zstd19) })
	row("encode, ns per value", 0, func(b benchResult) *float64 { return &b.EncodeNS })
	row("decode, ns per value", 0, func(b benchResult) *float64 { return &b.DecodeNS })
	return t.render(a.stdout)
}

func ratio(a float64, b *float64) *float64 {
	if b == nil {
		return nil
	}
	r := a / *b
	return &r
}

// benchBlocks packs the samples in blocks of n, in every way.
func benchBlocks(ctx context.Context, rec *recording, n int) (benchResult, error) {
	blocks := rec.blocks(n)
	encoded := make([][]byte, len(blocks))
	samples, size := 0, 0
	encode, err := fastest(ctx, len(blocks), func(i int) (err error) {
		encoded[i], err = block.Encode(blocks[i])
		return err
	})
	if err != nil {
		return benchResult{}, err
	}
	decode, err := fastest(ctx, len(blocks), func(i int) error {
		_, err := block.Decode(encoded[i], block.Limits{})
		return err
	})
	if err != nil {
		return benchResult{}, err
	}
	for i, b := range blocks {
		if back, err := block.Decode(encoded[i], block.Limits{}); err != nil || !reflect.DeepEqual(back, b.Samples) {
			return benchResult{}, fmt.Errorf("block %d came back changed: %w", i, err)
		}
		samples += len(b.Samples)
		size += len(encoded[i])
	}
	per := func(bytes int) float64 { return float64(bytes) / float64(samples) }
	values := float64(samples * len(rec.points))
	r := benchResult{
		Samples:   n,
		Registers: float64(8 + 2*len(rec.points)),
		Block:     per(size),
		EncodeNS:  float64(encode.Nanoseconds()) / values,
		DecodeNS:  float64(decode.Nanoseconds()) / values,
	}
	packed, err := zstdGo(blocks)
	if err != nil {
		return benchResult{}, err
	}
	r.ZstdGo = per(packed)
	if program, err := exec.LookPath("zstd"); err == nil {
		packed, err := zstd19(ctx, program, blocks)
		if err != nil {
			return benchResult{}, err
		}
		z := per(packed)
		r.Zstd19 = &z
	}
	return r, nil
}

// fastest returns how long work takes for each of n pieces, together: of each
// the least of five times, for other programs run meanwhile.
func fastest(ctx context.Context, n int, work func(i int) error) (time.Duration, error) {
	var sum time.Duration
	for i := range n {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		least := time.Duration(math.MaxInt64)
		for range 5 {
			start := time.Now()
			if err := work(i); err != nil {
				return 0, err
			}
			least = min(least, time.Since(start))
		}
		sum += least
	}
	return sum, nil
}
