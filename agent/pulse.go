package agent

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Times of the heartbeat.
const (
	beatPeriod = 10 * time.Second
	roundTime  = 10 * time.Minute // what a loop may take beside its waits
)

// pulse gives the launcher a heartbeat as long as every loop that matters comes
// round when it should. A loop that does not, for whatever it waits, ends them, and
// then the launcher ends the agent.
type pulse struct {
	now func() time.Duration

	mu    sync.Mutex // guards what follows
	loops []*loop
}

// loop is one that matters.
type loop struct {
	pulse *pulse
	name  string
	until time.Duration // it has to come round, since boot
}

// loop returns a loop that begins now.
func (p *pulse) loop(name string) *loop {
	l := &loop{pulse: p, name: name, until: p.now() + roundTime}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loops = append(p.loops, l)
	return l
}

// waits says that the loop comes round after it has waited for d.
func (l *loop) waits(d time.Duration) {
	l.pulse.mu.Lock()
	defer l.pulse.mu.Unlock()
	l.until = l.pulse.now() + max(d, 0) + roundTime
}

// late is the name of a loop that has not come round; empty for none.
func (p *pulse) late() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.loops {
		if p.now() > l.until {
			return l.name
		}
	}
	return ""
}

// run writes a heartbeat to beats every few seconds, until ctx ends.
func (p *pulse) run(ctx context.Context, beats io.Writer, logger *slog.Logger) error {
	told := ""
	for {
		late := p.late()
		if late == "" {
			if _, err := beats.Write([]byte{1}); err != nil { // the launcher is gone, and this agent will be
				logger.WarnContext(ctx, "the launcher does not take heartbeats", "error", err)
				return nil
			}
		} else if late != told {
			logger.ErrorContext(ctx, "a part of the agent hangs", "code", "agent_hangs", "part", late)
		}
		told = late
		if !sleep(ctx, beatPeriod) {
			return nil
		}
	}
}
