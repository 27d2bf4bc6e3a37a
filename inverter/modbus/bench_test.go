package modbus

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// BenchmarkPoll is a poll of ten registers over loopback. As a second figure it
// reports how many times a bare exchange of as many bytes between two sockets
// that takes, measured in turns with it.
func BenchmarkPoll(b *testing.B) {
	words := make([]uint16, 10)
	handle := func(context.Context, Request) ([]uint16, error) { return words, nil }
	b.Run("tcp", func(b *testing.B) { benchmarkPoll(b, NewClient(serve(b, handle, ServerOptions{}), ClientOptions{})) })
	b.Run("rtu over tcp", func(b *testing.B) {
		benchmarkPoll(b, NewRTUClient(serveRTU(b, handle, ServerOptions{}), ClientOptions{}))
	})
	b.Run("bus", func(b *testing.B) {
		benchmarkPoll(b, NewBus(NewClient(serve(b, handle, ServerOptions{}), ClientOptions{}), BusOptions{}))
	})
}

func benchmarkPoll(b *testing.B, client Transport) {
	b.Helper()
	defer client.Close()
	r := Request{Unit: 17, Function: ReadHolding, Count: 10}
	bare := newBare(b)

	if _, err := client.Do(b.Context(), r); err != nil { // connects
		b.Fatal(err)
	}

	var polls, exchanges time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if _, err := client.Do(b.Context(), r); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		bare.exchange(b)
		polls += between.Sub(start)
		exchanges += time.Since(between)
	}
	b.ReportMetric(float64(polls.Nanoseconds())/float64(b.N), "ns/poll")
	b.ReportMetric(polls.Seconds()/exchanges.Seconds(), "bare")
}

// The bytes of a request and of an answer of ten registers.
const (
	requestSize = headerSize + 5
	answerSize  = headerSize + 2 + 20
)

// bare is a pair of sockets that exchange bytes without a meaning, buffered as
// the client and the server are.
type bare struct {
	net.Conn
	incoming *bufio.Reader
}

func newBare(b *testing.B) bare {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		defer far.Close()
		var request [requestSize]byte
		var answer [answerSize]byte
		incoming := bufio.NewReader(far)
		for {
			if _, err := io.ReadFull(incoming, request[:]); err != nil {
				return
			}
			if _, err := far.Write(answer[:]); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() { near.Close() })
	return bare{near, bufio.NewReader(near)}
}

func (x bare) exchange(b *testing.B) {
	b.Helper()
	var request [requestSize]byte
	var answer [answerSize]byte
	if _, err := x.Write(request[:]); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(x.incoming, answer[:]); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkCRC(b *testing.B) {
	frame := make([]byte, maxRTUFrame)
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		crc(frame)
	}
}
