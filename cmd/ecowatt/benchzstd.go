package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"ecowatt"
)

// differences is the strongest plain preparation for a general packer: column
// by column, times first, the zig-zag first differences as variable-length
// numbers. A missing value repeats the one before, and where there are any, a
// bit for each value follows.
func differences(b ecowatt.Block) []byte {
	var data, missing []byte
	last := int64(0)
	for _, s := range b.Samples {
		data = binary.AppendVarint(data, s.At-last)
		last = s.At
	}
	gaps := false
	for i := range b.Points {
		last = 0
		for k, s := range b.Samples {
			if k%8 == 0 {
				missing = append(missing, 0)
			}
			v := s.Values[i]
			if !v.Valid {
				gaps = true
				missing[len(missing)-1] |= 1 << (k % 8)
				v.Raw = last
			}
			data = binary.AppendVarint(data, v.Raw-last)
			last = v.Raw
		}
	}
	if gaps {
		data = append(data, missing...)
	}
	return data
}

// zstdGo returns how many bytes the blocks take when the best level of the Go
// library packs each of them.
func zstdGo(blocks []ecowatt.Block) (int, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer w.Close() //nolint:errcheck // it has no output to lose
	size := 0
	for _, b := range blocks {
		size += len(w.EncodeAll(differences(b), nil))
	}
	return size, nil
}

// zstd19 returns how many bytes the blocks take when the program zstd packs
// each of them as a file of its own.
func zstd19(ctx context.Context, program string, blocks []ecowatt.Block) (int, error) {
	dir, err := os.MkdirTemp("", "ecowatt-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover is for the system to clean
	const batch = 500       // files for one run of the program
	size := 0
	for first := 0; first < len(blocks); first += batch {
		var names []string
		for i, b := range blocks[first:min(first+batch, len(blocks))] {
			name := filepath.Join(dir, strconv.Itoa(first+i))
			if err := os.WriteFile(name, differences(b), 0o600); err != nil {
				return 0, err
			}
			names = append(names, name)
		}
		c := exec.CommandContext(ctx, program, append([]string{"-19", "--no-check", "-q", "--rm"}, names...)...)
		if out, err := c.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("running %s: %w: %.200s", program, err, out)
		}
		for _, name := range names {
			info, err := os.Stat(name + ".zst")
			if err != nil {
				return 0, err
			}
			size += int(info.Size())
		}
	}
	return size, nil
}
