package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"ecowatt/inverter/modbus"
)

// Ends are where requests come from; those that are nil are not served. One
// plant answers them all.
type Ends struct {
	TCP  net.Listener       // Modbus TCP
	RTU  net.Listener       // RTU frames over TCP
	Line io.ReadWriteCloser // RTU frames on a serial line
	HTTP net.Listener       // RTU frames in HTTP requests, see Simulator.HTTP
}

const (
	saveEvery       = time.Minute // how often the counters of energy are saved
	shutdownTimeout = 5 * time.Second
)

// Run lets time pass and answers the requests that come at ends, which it
// closes, until ctx ends; that is no error.
func (s *Simulator) Run(ctx context.Context, ends Ends) error {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begin := func(name string, f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	running.Go(func() { s.live(ctx) })
	begin("saving the counters of energy", func() error { return s.keep(ctx) })
	server := modbus.NewServer(s.Handle, modbus.ServerOptions{Admits: s.admits, Has: s.has, Logger: s.options.Logger})
	if ends.TCP != nil {
		s.listening("modbus-tcp", ends.TCP)
		begin("serving Modbus TCP", func() error { return server.Serve(ctx, ends.TCP) })
	}
	if ends.RTU != nil {
		s.listening("rtu-tcp", ends.RTU)
		begin("serving RTU over TCP", func() error { return server.ServeRTU(ctx, ends.RTU) })
	}
	if ends.Line != nil {
		s.options.Logger.Info("listening", "transport", "rtu", "units", units(s.options.Inverters), "speed", s.options.Speed)
		begin("serving the serial line", func() error { return s.serveLine(ctx, server, ends.Line) })
	}
	if ends.HTTP != nil {
		s.listening("http", ends.HTTP)
		begin("serving HTTP", func() error { return s.serveHTTP(ctx, ends.HTTP, server) })
	}
	<-ctx.Done()
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (s *Simulator) listening(transport string, l net.Listener) {
	s.options.Logger.Info("listening", "address", l.Addr().String(), "transport", transport, "units", units(s.options.Inverters),
		"speed", s.options.Speed)
}

// serveLine answers on a line until ctx ends; that the line ends before is an
// error.
func (s *Simulator) serveLine(ctx context.Context, server *modbus.Server, line io.ReadWriteCloser) error {
	err := server.ServeLine(ctx, line)
	if err == nil && ctx.Err() == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// serveHTTP answers HTTP requests until ctx ends.
func (s *Simulator) serveHTTP(ctx context.Context, l net.Listener, server *modbus.Server) error {
	h := &http.Server{
		Handler:           s.http(server),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if h.Shutdown(limited) != nil {
			_ = h.Close() // whoever still reads does not get the rest
		}
	})
	err := h.Serve(l)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// has reports whether unit is one of the inverters.
func (s *Simulator) has(unit byte) bool {
	_, ok := s.index[unit]
	return ok
}

// keep saves the counters of energy until ctx ends, and then once more.
func (s *Simulator) keep(ctx context.Context) error {
	if s.options.Save == nil {
		return nil
	}
	ticker := time.NewTicker(saveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.options.Save(s.Energy())
		case <-ticker.C:
			if err := s.options.Save(s.Energy()); err != nil {
				return err
			}
		}
	}
}

// Energy returns what the counters of the inverters stand at.
func (s *Simulator) Energy() []Energy {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Energy
	for _, p := range s.site.plants {
		all = append(all, p.energy)
	}
	return all
}
