package modbus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The HTTP interface of the original simulator: a POST carries an RTU frame in
// hexadecimal digits, and so does the answer.
const (
	// HTTPReadPath and HTTPWritePath follow the base address.
	HTTPReadPath  = "/api/inverter/read"
	HTTPWritePath = "/api/inverter/write"

	maxHTTPBody = 4096 // bytes; a frame takes 512
)

// HTTPFrame is the JSON body of a request and of an answer.
type HTTPFrame struct {
	Frame string `json:"frame"` // an RTU frame in hexadecimal digits
}

// NewHTTPFrame returns the body that carries a frame.
func NewHTTPFrame(frame []byte) HTTPFrame {
	return HTTPFrame{strings.ToUpper(hex.EncodeToString(frame))}
}

// Bytes returns the frame, at most 256 bytes, whose content is not checked.
func (f HTTPFrame) Bytes() ([]byte, error) {
	if len(f.Frame) > 2*maxRTUFrame {
		return nil, fmt.Errorf("a frame of %d hexadecimal digits, at most %d fit", len(f.Frame), 2*maxRTUFrame)
	}
	b, err := hex.DecodeString(f.Frame)
	if err != nil {
		return nil, fmt.Errorf("a frame that is not in hexadecimal digits: %w", err)
	}
	return b, nil
}

// HTTPClient asks the units of the original simulator. Each request is an HTTP
// exchange of its own, so that a late answer cannot be taken for another.
//
// Several goroutines may use a client; their requests wait for each other.
type HTTPClient struct {
	base    string
	options ClientOptions
	client  *http.Client
	turn    chan struct{} // capacity 1
}

// NewHTTPClient returns a client of the units at the base address, as
// http://HOST:PORT. It does not connect yet. Close ends it.
func NewHTTPClient(base string, o ClientOptions) *HTTPClient {
	o = o.withDefaults()
	return &HTTPClient{
		base:    strings.TrimSuffix(base, "/"),
		options: o,
		turn:    make(chan struct{}, 1),
		client: &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
					conn, err := o.Dial(ctx, address)
					if err != nil {
						return nil, fmt.Errorf("%w: connecting: %w", ErrLine, err)
					}
					return conn, nil
				},
				MaxConnsPerHost: 1,
				IdleConnTimeout: time.Minute,
			},
			// The key is for nobody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Do carries out r as Client.Do does. Delays after a connection, and the options'
// Quiet, are of no meaning here.
func (c *HTTPClient) Do(ctx context.Context, r Request) ([]uint16, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, errWaiting(r, ctx.Err())
	}
	defer func() { <-c.turn }()

	timeout := cmp.Or(r.Pace.Timeout, c.options.Timeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	got, err := c.exchange(limited, r)
	switch {
	case err == nil:
		return got, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("%w within %v", ErrNoAnswer, timeout)
	}
	return nil, fmt.Errorf("%v: %w", r, err)
}

func (c *HTTPClient) exchange(ctx context.Context, r Request) ([]uint16, error) {
	body, err := json.Marshal(NewHTTPFrame(appendRTURequest(nil, r)))
	if err != nil {
		return nil, err
	}
	path := HTTPReadPath
	if r.Values != nil {
		path = HTTPWritePath
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLine, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if c.options.Key != "" {
		request.Header.Set("Authorization", string(c.options.Key))
	}
	response, err := c.client.Do(request)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err
		}
		if errors.Is(err, ErrLine) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxHTTPBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return nil, notDone(fmt.Errorf("%w: the key is not accepted (status %d)", ErrNoAnswer, response.StatusCode))
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: status %d", ErrNoAnswer, response.StatusCode)
	}
	return parseHTTPAnswer(text, r)
}

// parseHTTPAnswer reads the body that answers r.
func parseHTTPAnswer(text []byte, r Request) ([]uint16, error) {
	var answer HTTPFrame
	if len(text) > maxHTTPBody {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, maxHTTPBody)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if answer.Frame == "" {
		return nil, fmt.Errorf("%w: the frame is empty", ErrNoAnswer)
	}
	b, err := answer.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	pdu := answerAt(b, r)
	if pdu == nil || len(pdu)+rtuOverhead != len(b) {
		return nil, misfit(b, r)
	}
	return parseAnswer(r, pdu)
}

// Close gives up idle connections, after the request that is under way. The
// client can be used on.
func (c *HTTPClient) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.client.CloseIdleConnections()
	return nil
}
