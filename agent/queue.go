package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ecowatt/agent/buffer"
	"ecowatt/wire"
)

// flushRetry is the pause after a flush that failed.
const flushRetry = 5 * time.Second

// queue is the buffer for several goroutines. That it cannot be written is
// logged once, and once that it can be again; whatever was to be written, the
// device goes on.
type queue struct {
	logger *slog.Logger
	added  chan struct{} // capacity 1; something was added since flushing looked
	sooner chan struct{} // capacity 1; the flush interval is another one since flushing looked

	mu      sync.Mutex // guards what follows
	b       *buffer.Buffer
	failing bool
}

func newQueue(b *buffer.Buffer, logger *slog.Logger) *queue {
	return &queue{logger: logger, added: make(chan struct{}, 1), sooner: make(chan struct{}, 1), b: b}
}

// do does something with the buffer that may write to it. That it fails is told
// when it begins to; that it works again when something succeeds that certainly
// writes.
func (q *queue) do(writes bool, use func(*buffer.Buffer) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := use(q.b)
	switch {
	case err != nil && !q.failing:
		q.failing = true
		q.logger.Error("the buffer cannot be written", "code", "buffer_failing", "error", err)
	case err == nil && q.failing && writes:
		q.failing = false
		q.logger.Info("the buffer can be written again", "code", "buffer_working")
	}
	return err
}

// add keeps a sample that was taken at now.
func (q *queue) add(r buffer.Reading, now time.Duration) {
	if q.do(true, func(b *buffer.Buffer) error { return b.Add(r, now) }) != nil {
		return
	}
	notify(q.added)
}

// notify leaves a note in a channel of capacity 1, unless there is one.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// setFlushInterval changes for how long a sample may wait for its fsync.
func (q *queue) setFlushInterval(d time.Duration) {
	q.mu.Lock()
	q.b.SetFlushInterval(d)
	q.mu.Unlock()
	notify(q.sooner)
}

// flushing syncs what was added in time, until ctx ends.
func (q *queue) flushing(ctx context.Context, now func() time.Duration) error {
	for ctx.Err() == nil {
		q.mu.Lock()
		at, waiting := q.b.FlushDue()
		q.mu.Unlock()
		if !waiting {
			select {
			case <-ctx.Done():
			case <-q.added:
			}
			continue
		}
		_, changed, ok := sleepOr(ctx, at-now(), q.sooner)
		if !ok || changed {
			continue
		}
		if q.do(false, func(b *buffer.Buffer) error { return b.Flush(now()) }) != nil {
			sleep(ctx, flushRetry)
		}
	}
	return nil
}

// put keeps messages, durably: all of them or, with an error, none.
func (q *queue) put(messages []buffer.Message) error {
	return q.do(true, func(b *buffer.Buffer) error { return b.Put(messages...) })
}

// pack makes messages of samples, until there are enough bytes of them, and
// reports whether samples are left.
func (q *queue) pack(enough int, pack buffer.Packer) (left bool) {
	// That it fails is told by do. What was packed before goes out all the
	// same, and makes room.
	_ = q.do(false, func(b *buffer.Buffer) (err error) {
		left, err = b.Pack(int64(enough), pack)
		return err
	})
	return left
}

// next returns the oldest messages that fit into a request with room for so
// many bytes of them.
func (q *queue) next(room int) []buffer.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.b.Next(func(m buffer.Message) int { return wireMessage(m).EncodedSize() }, room, wire.MaxMessages)
}

// settle lets messages go.
func (q *queue) settle(ids [][16]byte) {
	if len(ids) > 0 {
		_ = q.do(false, func(b *buffer.Buffer) error { return b.Settle(ids) }) // they go out again, and are duplicates
	}
}

func (q *queue) stats() (stats buffer.Stats, failing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.b.Stats(), q.failing
}

func (q *queue) close(now time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return errors.Join(q.b.Flush(now), q.b.Close())
}
