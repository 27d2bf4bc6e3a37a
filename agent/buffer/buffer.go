// Package buffer keeps on the device's disk what waits for the cloud: samples
// first, in a journal, then messages, in an outbox.
//
// Nothing leaves it that Settle was not called for, but the oldest when there is
// no more room, and before that samples give way to their windows. A program that is killed loses no sample that was added; a power
// cut loses at most what was added since the last Flush. A message is on the
// disk before Next hands it out, so its id names the same bytes for ever.
//
// Memory holds an index and no bodies. The format is docs/formats/buffer.md.
package buffer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ecowatt"
	"ecowatt/internal/disk"
)

// Defaults and bounds of Options.
const (
	DefaultLimit  = 64 << 20 // bytes
	DefaultMaxRun = 512      // samples
	// MinLimit is the smallest Limit, in bytes.
	MinLimit = 64 << 10
)

// Reading is one sample of one inverter.
type Reading struct {
	Inverter string         // a name as ecowatt.ParseName takes it
	Points   []string       // names; 1 to MaxPoints
	Boot     [16]byte       // the boot that Sample.At counts from
	Sample   ecowatt.Sample // At in ms since that boot; one value per point
}

// Run is what readings of the same points of one inverter have in common, and
// their samples, in the order in which they were added. Their times do not go back.
type Run struct {
	Inverter string
	Points   []string
	Boot     [16]byte         // in which the samples were taken
	Samples  []ecowatt.Sample // at least one
	// Window says that there was no room: Samples are windows of so many ms (see
	// ecowatt.Aggregate), none twice. 0 for samples as they were added.
	Window int64
	UTC    bool // whether the times count from 1970, as they may where Window is set; else from the boot
}

// columns is the number of values of each sample.
func (r Run) columns() int { return ecowatt.Columns(len(r.Points), r.Window) }

// Message is one thing that the cloud is to store. The id is the caller's to
// draw at random; the kind and the body are nothing to the buffer.
type Message struct {
	ID   [16]byte
	Kind uint64
	Body []byte // at most MaxBody bytes
}

// Options are what a Buffer is made of. They do not change.
type Options struct {
	FS disk.FS // the gateway's folder; the buffer has the folder "buffer" in it to itself
	// Limit is how many bytes of the disk the buffer may take; 0 for
	// DefaultLimit, MinLimit at least. Beyond it the oldest samples that were
	// never in a message are thinned out, and then the oldest data go.
	Limit int64
	// FlushInterval is how long a sample may wait for its fsync; 0 for none.
	FlushInterval time.Duration
	MaxRun        int // most samples of a Run; 0 for DefaultMaxRun
	// Place tells when a time of a boot was, in ms since 1970, 0 where that is not
	// known: windows lie on multiples of UTC where it is. Nil for never. It is
	// called by Open and whatever adds data.
	Place  func(boot [16]byte, mono int64) int64
	Logger *slog.Logger // nil for none
}

// Codes of the device log that this package writes.
const (
	codeThinned = "buffer_thinned" // of old samples only windows are kept, to make room for newer ones
	codeFull    = "buffer_full"    // the oldest data were given up for newer ones
	codeDamaged = "buffer_damaged" // bytes that cannot be read
	codeVersion = "buffer_version" // a file of another version, which stays
	codeRead    = "buffer_read"    // the disk does not give back what is on it
)

// Buffer is what waits for the cloud. It has no goroutine and is not for use by
// several at once.
type Buffer struct {
	fs            disk.FS
	limit         int64
	unit          int64 // what the smallest file takes of the disk
	flushInterval time.Duration
	maxRun        int
	place         func(boot [16]byte, mono int64) int64
	logger        *slog.Logger

	files   []*file  // by number
	next    uint64   // number of the next file
	journal *journal // the one that samples are appended to; nil before the first

	unsynced bool          // whether samples wait for an fsync
	since    time.Duration // then: when the oldest of them was added, or the last fsync failed
	unnamed  bool          // whether the names of files are not known to last
	dropped  uint64
	thinned  uint64
	scratch  []byte

	now    time.Duration // at the last Add
	untold thinnings
	told   bool          // whether there was an earlier thinning, of which the log tells,
	toldAt time.Duration // and when
}

// Stats tells how much waits.
type Stats struct {
	Samples  int    // not yet in messages; windows where they were thinned out
	Messages int    // in the outbox, not settled
	Bytes    int64  // of the disk, whole blocks of 4096
	Dropped  uint64 // samples given up since Open because there was no room for them, packed or not; windows count as one
	Thinned  uint64 // samples since Open that were replaced by windows
}

// Open reads what waits in o.FS and goes on with it. What is damaged is logged
// and left out; the error is one of o or of the disk.
func Open(o Options) (*Buffer, error) {
	switch {
	case o.FS == nil:
		return nil, errors.New("opening the buffer: no folder is given")
	case o.Limit != 0 && o.Limit < MinLimit:
		return nil, fmt.Errorf("opening the buffer: a limit of %d bytes; at least %d are needed", o.Limit, MinLimit)
	case o.FlushInterval < 0 || o.MaxRun < 0:
		return nil, fmt.Errorf("opening the buffer: a flush interval of %v and runs of %d samples; neither may be negative", o.FlushInterval, o.MaxRun)
	}
	b := &Buffer{fs: o.FS, limit: o.Limit, unit: unit, flushInterval: o.FlushInterval, maxRun: o.MaxRun, place: o.Place, logger: o.Logger, next: 1}
	if b.limit == 0 {
		b.limit = DefaultLimit
	}
	if b.maxRun == 0 {
		b.maxRun = DefaultMaxRun
	}
	if b.place == nil {
		b.place = func([16]byte, int64) int64 { return 0 }
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	if err := b.load(); err != nil {
		return nil, fmt.Errorf("opening the buffer: %w", err)
	}
	b.makeRoom()
	return b, nil
}

// Add appends a sample to the journal, where a kill of the program cannot reach
// it. now is on a clock that does not step. With a flush interval of 0 the
// sample is on the disk when Add returns nil.
//
// An error says that the reading makes no sense, or that the disk does not take
// it; in either case what was added before is unharmed, and the next Add tries
// again. Only when the fsync fails is the sample in the journal all the same.
func (b *Buffer) Add(r Reading, now time.Duration) error {
	if len(r.Sample.Values) != len(r.Points) {
		return fmt.Errorf("keeping a sample of %.80q: %d values of %d points", r.Inverter, len(r.Sample.Values), len(r.Points))
	}
	b.now = now
	if err := b.appendSample(r); err != nil {
		return err
	}
	if !b.unsynced {
		b.unsynced, b.since = true, now
	}
	if b.flushInterval == 0 {
		if err := b.Flush(now); err != nil {
			return err
		}
	}
	return b.endJournal(now)
}

// Flush syncs what is not synced. When it returns nil no power cut takes what
// was added before. After an error FlushDue asks for the next attempt an
// interval later.
func (b *Buffer) Flush(now time.Duration) error {
	if !b.unsynced {
		return nil
	}
	if err := b.journal.log.Sync(); err != nil {
		b.since = now
		return fmt.Errorf("flushing samples: %w", err)
	}
	b.unsynced = false
	return nil
}

// SetFlushInterval changes for how long a sample may wait for its fsync, also one
// that waits already. It is not negative; 0 is for samples that are added from
// now on.
func (b *Buffer) SetFlushInterval(d time.Duration) { b.flushInterval = d }

// FlushDue returns when Flush is to be called at the latest, on the clock of
// Add. waiting is false when there is nothing to sync.
func (b *Buffer) FlushDue() (at time.Duration, waiting bool) {
	if !b.unsynced {
		return 0, false
	}
	return b.since + b.flushInterval, true
}

// Stats tells how much waits.
func (b *Buffer) Stats() Stats {
	s := Stats{Dropped: b.dropped, Thinned: b.thinned, Bytes: b.size()}
	for _, f := range b.files {
		s.Samples += f.samples
		s.Messages += f.waiting
	}
	return s
}

// Close syncs what is not synced and closes the files. The buffer is of no use
// afterwards.
func (b *Buffer) Close() error {
	b.tellThinned(true)
	err := b.Flush(b.since)
	if b.journal != nil {
		err = errors.Join(err, b.journal.log.Close())
		b.journal = nil
	}
	return err
}
