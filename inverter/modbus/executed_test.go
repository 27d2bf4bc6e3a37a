package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestNotExecuted(t *testing.T) {
	for _, x := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{ErrRequest, true},
		{ErrLine, true},
		{ErrNoAnswer, false},
		{ErrAnswer, false},
		{io.EOF, false},
		{context.Canceled, false},
		{ErrIllegalFunction, true},
		{ErrIllegalAddress, true},
		{ErrIllegalValue, true},
		{ErrDeviceFailure, false},
		{ErrAcknowledge, false},
		{ErrBusy, true},
		{ErrGatewayPath, true},
		{ErrGatewayTarget, false},
		{ExceptionError(0x63), false},
		{&BackoffError{Err: ErrNoAnswer}, true},
		{&BackoffError{Err: ErrGatewayTarget}, true},
	} {
		if got := NotExecuted(x.err); got != x.want {
			t.Errorf("%v: %v, want %v", x.err, got, x.want)
		}
		if x.err == nil {
			continue
		}
		if got := NotExecuted(fmt.Errorf("writing: %w", x.err)); got != x.want {
			t.Errorf("%v, wrapped: %v, want %v", x.err, got, x.want)
		}
	}
}

var writing = Request{Unit: 17, Function: WriteSingle, Address: 8, Values: []uint16{5}}

// wants fails the test unless err is one that tells want.
func wantsExecution(t *testing.T, err error, notExecuted bool) {
	t.Helper()
	if err == nil || NotExecuted(err) != notExecuted {
		t.Errorf("%v: certainly not executed: %v, want %v", err, NotExecuted(err), notExecuted)
	}
}

// TestClientTellsWhetherItSent: whether a write may have reached the unit, over
// what happens to a connection.
func TestClientTellsWhetherItSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := scripted(t, ClientOptions{}, func(p peer) {
			p.say(p.next(), 17, 0x86, 3)
			p.next() // and no answer
		}, func(p peer) {
			p.next() // and the end of the connection
		}, func(p peer) {
			p.say(p.next(), 17, 6, 0, 8, 0, 6) // another value is confirmed
		})
		defer end()
		for _, notExecuted := range []bool{true, false, false, false} {
			_, err := c.Do(t.Context(), writing)
			wantsExecution(t, err, notExecuted)
		}
		given, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Do(given, writing)
		wantsExecution(t, err, true)
		_, err = c.Do(t.Context(), Request{Unit: 17, Function: WriteSingle})
		wantsExecution(t, err, true)
	})
	refuse := func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody listens") }
	_, err := NewClient("peer", ClientOptions{Dial: refuse}).Do(t.Context(), writing)
	wantsExecution(t, err, true)
	_, err = NewHTTPClient("http://peer", ClientOptions{Dial: refuse}).Do(t.Context(), writing)
	wantsExecution(t, err, true)
}

// TestClientGivenUpWhileItWaitsForAnAnswer: the write is on its way.
func TestClientGivenUpWhileItWaitsForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := scripted(t, ClientOptions{}, func(p peer) {
			p.next()
			_, _ = p.Read(make([]byte, 1))
		})
		defer end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Do(ctx, writing)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that ctx ended", err)
		}
		wantsExecution(t, err, false)
	})
}

// TestHTTPTellsWhetherItWasExecuted: a key that is not accepted is a refusal; an
// error of the server says nothing.
func TestHTTPTellsWhetherItWasExecuted(t *testing.T) {
	for status, notExecuted := range map[int]bool{
		http.StatusUnauthorized: true, http.StatusForbidden: true, http.StatusInternalServerError: false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		c := NewHTTPClient(server.URL, ClientOptions{})
		_, err := c.Do(t.Context(), writing)
		wantsExecution(t, err, notExecuted)
		c.Close()
		server.Close()
	}
}

// TestBusTellsWhetherItSent: a write that waits, and one whose unit is left
// alone, was not sent; one that was given up under way may have been done. No
// write is repeated that may have been.
func TestBusTellsWhetherItSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		p.errs[1] = []error{ErrAcknowledge, ErrGatewayTarget, ErrBusy, ErrBusy, nil}
		p.errs[2] = repeat(ErrNoAnswer, 3)
		p.takes[3] = time.Second
		b := NewBus(p, BusOptions{})
		for range 2 {
			_, err := b.Do(t.Context(), writeOf(1))
			wantsExecution(t, err, false)
		}
		if _, err := b.Do(t.Context(), writeOf(1)); err != nil {
			t.Errorf("a write that was refused twice: %v", err)
		}
		p.wants("1w@0 1w@0 1w@0 1w@100 1w@300")
		for range 3 {
			_, err := b.Do(t.Context(), writeOf(2))
			wantsExecution(t, err, false)
		}
		_, err := b.Do(t.Context(), writeOf(2))
		wantsExecution(t, err, true)

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		results := make(chan error, 2)
		for range 2 { // the one is under way, the other waits
			go func() {
				_, err := b.Do(ctx, writeOf(3))
				results <- err
			}()
			synctest.Wait()
		}
		sent := 0
		for range 2 {
			if err := <-results; !NotExecuted(err) {
				sent++
			}
		}
		if sent != 1 {
			t.Errorf("%d of two writes may have been done, want 1", sent)
		}
	})
}
