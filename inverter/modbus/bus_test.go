package modbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// plant is a Transport whose units take a time and then do what errs says for
// them, first to last, and well once there is nothing more.
type plant struct {
	t     *testing.T
	start time.Time

	mu    sync.Mutex // guards what is below
	takes map[byte]time.Duration
	errs  map[byte][]error
	log   []string // "unit@ms", with w for a write
	busy  bool
}

func newPlant(t *testing.T) *plant {
	return &plant{t: t, start: time.Now(), takes: map[byte]time.Duration{}, errs: map[byte][]error{}}
}

func (p *plant) Do(ctx context.Context, r Request) ([]uint16, error) {
	p.mu.Lock()
	if p.busy {
		p.t.Error("two requests at a time")
	}
	p.busy = true
	write := ""
	if r.Values != nil {
		write = "w"
	}
	p.log = append(p.log, fmt.Sprintf("%d%s@%d", r.Unit, write, time.Since(p.start).Milliseconds()))
	var err error
	if all := p.errs[r.Unit]; len(all) > 0 {
		err, p.errs[r.Unit] = all[0], all[1:]
	}
	takes := p.takes[r.Unit]
	p.mu.Unlock()
	if !pause(ctx, takes) {
		err = ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
	if err != nil {
		return nil, err
	}
	return make([]uint16, r.Count), nil
}

func (p *plant) Close() error { return nil }

// took returns what was asked since the last call.
func (p *plant) took() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.Join(p.log, " ")
	p.log = nil
	return s
}

func readOf(unit byte) Request { return Request{Unit: unit, Function: ReadHolding, Count: 1} }
func writeOf(unit byte) Request {
	return Request{Unit: unit, Function: WriteSingle, Values: []uint16{1}}
}

func (p *plant) wants(log string) {
	p.t.Helper()
	if diff := cmp.Diff(log, p.took()); diff != "" {
		p.t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func repeat(err error, n int) (all []error) {
	for range n {
		all = append(all, err)
	}
	return all
}

func TestBusOrderAndGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		for unit := range byte(9) {
			p.takes[unit] = 100 * time.Millisecond
		}
		b := NewBus(p, BusOptions{Gap: 50 * time.Millisecond})
		var all sync.WaitGroup
		ask := func(r Request) {
			all.Go(func() {
				if _, err := b.Do(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // it is in the queue
		}
		for _, r := range []Request{readOf(1), readOf(2), readOf(3), writeOf(4), readOf(5), writeOf(6)} {
			ask(r)
		}
		time.Sleep(420 * time.Millisecond) // within the gap after the writes
		ask(writeOf(7))
		all.Wait()
		p.wants("1@0 4w@150 6w@300 7w@450 2@600 3@750 5@900")

		time.Sleep(time.Second)
		ask(readOf(8))
		all.Wait()
		p.wants("8@2000")
	})
}

// TestBusPaceOfAUnit: one that needs time between its requests has it, writes
// included, and the others do not notice.
func TestBusPaceOfAUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[1], p.takes[2] = 10*time.Millisecond, 10*time.Millisecond
		b := NewBus(p, BusOptions{Gap: 5 * time.Millisecond})
		var all sync.WaitGroup
		ask := func(r Request, gap time.Duration) {
			r.Pace.Gap = gap
			all.Go(func() {
				if _, err := b.Do(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		for range 2 {
			ask(readOf(1), 100*time.Millisecond)
		}
		ask(writeOf(1), 100*time.Millisecond)
		for range 3 {
			ask(readOf(2), time.Millisecond)
		}
		all.Wait()
		p.wants("1@0 2@15 2@30 2@45 1w@110 1@220")
	})
}

// TestBusDeadUnit: it is left alone for longer and longer, at once and with a
// reason, and the others do not notice.
func TestBusDeadUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[5] = time.Second
		p.errs[5] = repeat(ErrNoAnswer, 9)
		b := NewBus(p, BusOptions{})
		asked, refused := 0, 0
		var before time.Time
		var waits []float64
		for asked < 9 {
			begin := time.Now()
			_, err := b.Do(t.Context(), readOf(5))
			back, ok := errors.AsType[*BackoffError](err)
			switch {
			case !ok && errors.Is(err, ErrNoAnswer):
				if asked++; asked > 3 {
					waits = append(waits, begin.Sub(before).Round(time.Second/2).Seconds())
				}
				before = time.Now()
			case ok:
				refused++
				if !time.Now().Equal(begin) || back.Unit != 5 || back.Line || back.Times != asked || !errors.Is(err, ErrNoAnswer) {
					t.Errorf("refused after %v: %+v", time.Since(begin), back)
				}
				if back.Until != back.RetryAt() || time.Until(back.Until) != back.Wait {
					t.Errorf("refused until %v, another %v", back.Until, back.Wait)
				}
			default:
				t.Fatalf("got %v", err)
			}
			if _, err := b.Do(t.Context(), readOf(6)); err != nil {
				t.Errorf("another unit: %v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		for i, want := range []float64{1, 2, 4, 8, 16, 30} {
			if waits[i] > want+0.5 || waits[i] < want*0.75-0.5 {
				t.Errorf("asked again after %v s, want about %v", waits[i], want)
			}
		}
		if refused < 500 {
			t.Errorf("refused %d times", refused)
		}
		time.Sleep(31 * time.Second)
		p.takes[5] = 0
		for range 3 {
			if _, err := b.Do(t.Context(), readOf(5)); err != nil {
				t.Errorf("back again: %v", err)
			}
		}
		// What it did in former times counts no more.
		p.errs[5] = repeat(ErrAnswer, 2)
		for range 2 {
			b.Do(t.Context(), readOf(5))
		}
		if _, err := b.Do(t.Context(), readOf(5)); err != nil {
			t.Errorf("after two failures: %v", err)
		}
	})
}

// TestBusQueueOfADeadUnit: many who wait for a dead unit wait for three of its
// timeouts, and so does nobody else.
func TestBusQueueOfADeadUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[5] = time.Second
		p.errs[5] = repeat(ErrNoAnswer, 100)
		b := NewBus(p, BusOptions{})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if _, err := b.Do(t.Context(), readOf(5)); !errors.Is(err, ErrNoAnswer) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		if _, err := b.Do(t.Context(), readOf(6)); err != nil {
			t.Error(err)
		}
		all.Wait()
		p.wants("5@0 5@1000 5@2000 6@3000")
	})
}

func TestBusLineDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[1] = time.Second
		p.errs[1] = repeat(ErrLine, 3)
		b := NewBus(p, BusOptions{})
		var all sync.WaitGroup
		for unit := range byte(3) {
			all.Go(func() {
				_, err := b.Do(t.Context(), readOf(unit+1))
				if back, ok := errors.AsType[*BackoffError](err); !errors.Is(err, ErrLine) || ok && !back.Line || ok != (unit > 0) {
					t.Errorf("unit %d: %v", unit+1, err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		p.wants("1@0") // nobody else tried in vain
		for failures := 1; failures < 3; failures++ {
			time.Sleep(500 * time.Millisecond)
			if _, err := b.Do(t.Context(), readOf(1)); !errors.Is(err, ErrLine) {
				t.Error(err)
			}
		}
		_, err := b.Do(t.Context(), readOf(2))
		if back, ok := errors.AsType[*BackoffError](err); !ok || back.Times != 3 || back.Wait < 750*time.Millisecond || back.Wait > time.Second {
			t.Errorf("got %v", err)
		} else if want := fmt.Sprintf("reading 1 registers at 0 of unit 2 (function 03): the line failed 3 times in a row and is left alone for another %v: line down", back.Wait.Round(time.Millisecond)); err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		time.Sleep(time.Second)
		if _, err := b.Do(t.Context(), readOf(1)); err != nil {
			t.Error(err)
		}
		if _, err := b.Do(t.Context(), readOf(2)); err != nil {
			t.Error(err)
		}
		p.errs[1] = []error{ErrLine} // what the line did in former times counts no more
		b.Do(t.Context(), readOf(1))
		_, err = b.Do(t.Context(), readOf(2))
		if back, ok := errors.AsType[*BackoffError](err); !ok || back.Times != 1 {
			t.Errorf("down again: %v", err)
		}
	})
}

// TestBusRetries: a busy unit is asked again, while others have their turn.
func TestBusRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[1], p.takes[2] = 10*time.Millisecond, 10*time.Millisecond
		p.errs[1] = repeat(ErrBusy, 3)
		b := NewBus(p, BusOptions{})
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := b.Do(t.Context(), writeOf(1)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if _, err := b.Do(t.Context(), readOf(2)); err != nil {
			t.Error(err)
		}
		all.Wait()
		p.wants("1w@0 2@10 1w@110 1w@320 1w@730")

		p.errs[1] = []error{ErrIllegalAddress}
		if _, err := b.Do(t.Context(), readOf(1)); !errors.Is(err, ErrIllegalAddress) {
			t.Errorf("got %v", err)
		}
		p.wants("1@740")
	})
}

func TestBusContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.takes[1] = time.Second
		b := NewBus(p, BusOptions{Gap: 100 * time.Millisecond})
		var all sync.WaitGroup
		all.Go(func() { b.Do(t.Context(), readOf(1)) })
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := b.Do(short, readOf(2)); !errors.Is(err, context.DeadlineExceeded) || time.Since(p.start) != 300*time.Millisecond {
			t.Errorf("waiting: %v after %v", err, time.Since(p.start))
		}
		all.Wait()
		// To give up is no failure of the unit, and does not block the line.
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := b.Do(ctx, readOf(1)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		p.wants("1@0 1@1100 1@1400 1@1700 1@2000 1@2300")
		if _, err := b.Do(t.Context(), readOf(2)); err != nil {
			t.Error(err)
		}
		if _, err := b.Do(t.Context(), Request{Function: 1}); !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
	})
}

// TestBusTurnAtTheLastMoment: a turn that comes just when its request is given
// up goes on to the next one.
func TestBusTurnAtTheLastMoment(t *testing.T) {
	b := NewBus(newPlant(t), BusOptions{})
	given, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		b.Do(given, readOf(1))
	}
	limited, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.Do(limited, readOf(1)); err != nil {
		t.Error(err)
	}
}

// TestBusOverAClient: a bus and a real client, whose peer comes and goes.
func TestBusOverAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := scripted(t, ClientOptions{ConnectDelay: time.Second}, good, good)
		b := NewBus(c, BusOptions{})
		begin := time.Now()
		if _, err := b.Do(t.Context(), request); err != nil || time.Since(begin) < time.Second {
			t.Errorf("%v after %v, connect delay included", err, time.Since(begin))
		}
		// The peer has closed the connection; that is seen before anything is sent.
		if _, err := b.Do(t.Context(), request); err != nil {
			t.Error(err)
		}
		if _, err := b.Do(t.Context(), request); !errors.Is(err, ErrLine) {
			t.Errorf("no further connection: %v", err)
		}
		if _, err := b.Do(t.Context(), request); !strings.Contains(fmt.Sprint(err), "the line failed 1 times in a row") {
			t.Errorf("got %v", err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		end()
	})
}
