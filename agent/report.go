package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"ecowatt/agent/buffer"
	"ecowatt/wire"
)

// Limits of what is kept for the cloud's log between two exchanges. A report
// within them fits into a message of leastRoom.
const (
	maxReports   = 64
	maxText      = 256 // bytes
	maxAttrs     = 12
	maxAttrKey   = 32 // bytes
	maxAttrValue = 96 // bytes, of a text
	codeKey      = "code"
)

// report is one entry of the device log (PROTOCOL section 4, kind 2), with its
// time still on the monotonic clock.
type report struct {
	mono  int64 // ms since boot
	level slog.Level
	code  string
	text  string
	attrs map[string]any
}

// reports collects what the cloud should learn of the agent's own log. When
// the cloud is away for long the newest stay, and how many went is counted.
type reports struct {
	mu      sync.Mutex // guards what follows
	entries []report
	dropped int
}

func (r *reports) add(e report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.entries) == maxReports {
		r.entries = slices.Delete(r.entries, 0, 1)
		r.dropped++
	}
	r.entries = append(r.entries, e)
}

// take empties the collection.
func (r *reports) take() (entries []report, dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, dropped = r.entries, r.dropped
	r.entries, r.dropped = nil, 0
	return entries, dropped
}

// newLogger makes the agent's logger: records of level and above go to w as
// text, and those with a code also into reports, from info on.
func newLogger(w io.Writer, level slog.Leveler, r *reports, now func() time.Duration) *slog.Logger {
	text := slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	return slog.New(reportHandler{text: text, reports: r, now: now})
}

// reportHandler passes records on to text, and those with an attribute "code"
// also to the cloud's log. Groups are of text only.
type reportHandler struct {
	text    slog.Handler
	reports *reports
	now     func() time.Duration // since boot
	attrs   []slog.Attr
}

func (h reportHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.text.Enabled(ctx, l)
}

func (h reportHandler) Handle(ctx context.Context, r slog.Record) error {
	e := report{mono: h.now().Milliseconds(), level: r.Level, text: short(r.Message, maxText), attrs: map[string]any{}}
	keep := func(a slog.Attr) bool {
		switch {
		case a.Key == codeKey:
			e.code = short(a.Value.String(), maxAttrKey)
		case len(e.attrs) < maxAttrs:
			e.attrs[short(a.Key, maxAttrKey)] = plain(a.Value.Resolve())
		}
		return true
	}
	for _, a := range h.attrs {
		keep(a)
	}
	r.Attrs(keep)
	if e.code != "" && r.Level >= slog.LevelInfo {
		h.reports.add(e)
	}
	if !h.text.Enabled(ctx, r.Level) {
		return nil
	}
	return h.text.Handle(ctx, r)
}

func (h reportHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.text = h.text.WithAttrs(attrs)
	h.attrs = append(slices.Clip(h.attrs), attrs...)
	return h
}

func (h reportHandler) WithGroup(name string) slog.Handler {
	h.text = h.text.WithGroup(name)
	return h
}

// plain is a value that an attribute of the device log can have.
func plain(v slog.Value) any {
	switch v.Kind() {
	case slog.KindBool:
		return v.Bool()
	case slog.KindInt64:
		return v.Int64()
	case slog.KindUint64:
		if n := v.Uint64(); n <= math.MaxInt64 {
			return int64(n)
		}
	case slog.KindDuration:
		return v.Duration().Round(time.Millisecond).String()
	case slog.KindFloat64:
		if f := v.Float64(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	case slog.KindAny, slog.KindGroup, slog.KindLogValuer, slog.KindString, slog.KindTime:
	}
	return short(v.String(), maxAttrValue)
}

// short is text as UTF-8 of at most so many bytes.
func short(text string, most int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= most {
		return text
	}
	const mark = "…"
	return strings.ToValidUTF8(text[:most-len(mark)], "") + mark
}

// levelOf is the level of the device log.
func levelOf(l slog.Level) wire.Level {
	switch {
	case l >= slog.LevelError:
		return wire.LevelError
	case l >= slog.LevelWarn:
		return wire.LevelWarn
	case l >= slog.LevelInfo:
		return wire.LevelInfo
	}
	return wire.LevelDebug
}

// levelWord is the word for a level, as the settings have it.
func levelWord(l slog.Level) string { return strings.ToLower(l.String()) }

// encodeReports makes messages of reports, each of which fits into leastRoom.
// wall gives the time of a time since boot, 0 where it is not known.
func encodeReports(reports []report, dropped int, wall func(mono int64) int64, random io.Reader) ([]buffer.Message, error) {
	entries := make([]wire.LogEntry, 0, len(reports)+1)
	for _, r := range reports {
		entries = append(entries, wire.LogEntry{At: wall(r.mono), Level: levelOf(r.level), Code: r.code, Text: r.text, Attributes: r.attrs})
	}
	if dropped > 0 {
		first := wire.LogEntry{At: entries[0].At, Level: wire.LevelWarn, Code: "reports_dropped", Text: "older entries were dropped", Attributes: map[string]any{"count": dropped}}
		entries = slices.Insert(entries, 0, first)
	}
	return encodeEntries(entries, random)
}

// encodeEntries makes one message, or halves the entries until each fits.
func encodeEntries(entries []wire.LogEntry, random io.Reader) ([]buffer.Message, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	body, err := wire.EncodeLog(entries)
	if err != nil {
		return nil, fmt.Errorf("encoding a device log: %w", err)
	}
	m, err := newMessage(wire.KindLog, body, random)
	if err != nil || len(entries) == 1 || wireMessage(m).EncodedSize() <= leastRoom() {
		return []buffer.Message{m}, err
	}
	older, err := encodeEntries(entries[:len(entries)/2], random)
	if err != nil {
		return nil, err
	}
	newer, err := encodeEntries(entries[len(entries)/2:], random)
	return append(older, newer...), err
}
