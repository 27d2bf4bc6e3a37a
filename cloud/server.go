package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"ecowatt"
	"ecowatt/cloud/store"
)

// Bounds on what one peer may hold on to. An answer that is long or has to
// wait moves its own bound on.
const (
	headerTime = 5 * time.Second
	readTime   = 20 * time.Second
	writeTime  = time.Minute
	idleTime   = 2 * time.Minute
	maxHeader  = 8 << 10 // bytes
	// purgeTime is after how long at most the keys of a session that has ended are
	// nowhere in the files any more.
	purgeTime = 10 * time.Minute
	// lapseTime is how long after its time a command may be given up.
	lapseTime = 5 * time.Second
	// retireTime is how often old telemetry is looked for.
	retireTime = time.Hour
	// spreadTime is after how long at most a change of a group or a template begins
	// to reach those devices that were too many for its own transaction.
	spreadTime = time.Second
	// rollTime is after how long at most a stage of a rollout begins, or a device is
	// given up.
	rollTime = time.Second
	// stopTime is how long requests may take to finish when the cloud stops.
	stopTime = 15 * time.Second
)

// server serves one address from one store.
type server struct {
	db       *store.Store
	listener net.Listener
	handler  http.Handler
	logger   *slog.Logger
	ready    func(address string)
	draining chan struct{} // closed when the server is about to stop

	// tell tells the audit log what strangers do, until its context ends. Nil for
	// nothing to tell.
	tell func(context.Context) error
	// wake sends the answer that is held back for a device. Nil for none held.
	wake func(ecowatt.DeviceID)
}

// run serves until ctx ends, or a part of the server fails. Requests finish
// first, then what is left to tell is told, and the committer commits what waits.
func (s *server) run(ctx context.Context) error {
	outlive := context.WithoutCancel(ctx)
	var duties sync.WaitGroup
	defer duties.Wait()
	commit, stopCommitting := context.WithCancel(outlive)
	defer stopCommitting()
	committed := make(chan error, 1)
	go func() { committed <- s.db.Run(commit) }()
	duties.Go(func() { s.purge(commit) })
	duties.Go(func() { s.lapse(commit) })
	duties.Go(func() { s.retire(commit) })
	duties.Go(func() { s.spread(commit) })
	duties.Go(func() { s.roll(commit) })
	telling, stopTelling := context.WithCancel(outlive)
	defer stopTelling()
	told := make(chan error, 1)
	go func() {
		if s.tell == nil {
			told <- nil
			return
		}
		told <- s.tell(telling)
	}()

	web := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return outlive },
	}
	served := make(chan error, 1)
	go func() { served <- web.Serve(s.listener) }()
	address := s.listener.Addr().String()
	s.logger.InfoContext(ctx, "listening", "address", address)
	if s.ready != nil {
		s.ready(address)
	}

	var failure error
	select {
	case <-ctx.Done():
		s.logger.InfoContext(ctx, "stopping")
	case err := <-served:
		failure = fmt.Errorf("serving %s: %w", address, err)
	case err := <-committed:
		if err == nil {
			err = errors.New("the committer ended by itself")
		}
		failure = fmt.Errorf("committing: %w", err)
		committed <- nil // it has ended
	}
	close(s.draining)
	stop, cancel := context.WithTimeout(outlive, stopTime)
	defer cancel()
	if err := web.Shutdown(stop); err != nil {
		s.logger.WarnContext(ctx, "requests were ended before they had finished", "error", err)
		failure = errors.Join(failure, web.Close())
	}
	stopTelling()
	failure = errors.Join(failure, <-told)
	stopCommitting()
	if err := <-committed; err != nil {
		failure = errors.Join(failure, fmt.Errorf("committing what waits: %w", err))
	}
	return failure
}

// purge removes what is left of sessions that have ended, now and from time to
// time, until ctx ends.
func (s *server) purge(ctx context.Context) {
	tick := time.NewTicker(purgeTime)
	defer tick.Stop()
	for {
		switch emptied, err := s.db.Purge(ctx, time.Now()); {
		case ctx.Err() != nil:
		case err != nil:
			s.logger.WarnContext(ctx, "what is left of ended sessions was not removed; it is tried again", "error", err)
		case !emptied:
			s.logger.DebugContext(ctx, "a reader keeps the write-ahead log from being emptied")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// retire gives up telemetry that is older than it is kept, now and from time to
// time, until ctx ends.
func (s *server) retire(ctx context.Context) {
	tick := time.NewTicker(retireTime)
	defer tick.Stop()
	for {
		if _, err := s.db.Retire(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "old telemetry was not given up; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lapse gives up commands whose time is over, until ctx ends.
func (s *server) lapse(ctx context.Context) {
	tick := time.NewTicker(lapseTime)
	defer tick.Stop()
	for {
		if err := s.db.LapseCommands(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "commands whose time is over were not given up; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// spread lets changes of groups and templates reach their devices, a few at a time
// so that exchanges need not wait, until ctx ends.
func (s *server) spread(ctx context.Context) {
	tick := time.NewTicker(spreadTime)
	defer tick.Stop()
	for {
		devices, more, err := s.db.SpreadConfig(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "a change of configurations does not reach its devices; it is tried again", "error", err)
		}
		if s.wake != nil {
			for _, device := range devices {
				s.wake(device)
			}
		}
		if more && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// roll lets rollouts go on, a few devices at a time so that exchanges need not wait,
// until ctx ends.
func (s *server) roll(ctx context.Context) {
	tick := time.NewTicker(rollTime)
	defer tick.Stop()
	for {
		done, err := s.db.AdvanceRollouts(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "rollouts do not go on; it is tried again", "error", err)
		}
		if s.wake != nil {
			for _, device := range done.Begun {
				s.wake(device)
			}
		}
		if done.More && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
