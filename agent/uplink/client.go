package uplink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"ecowatt/wire"
)

// Reply is what came back over HTTP: nothing in it is authenticated.
type Reply struct {
	Status int
	Body   []byte // empty when it was longer than the limit
}

// Transport carries one message to the cloud and brings back what answers it.
// An error means that there was no complete answer.
type Transport interface {
	Post(ctx context.Context, path string, msg []byte, limit int) (Reply, error)
}

const (
	dialTime        = 10 * time.Second
	idleTime        = 5 * time.Second // so that HS1 and the first REQ share a connection, and no two slots do
	maxReplyHeaders = 16 << 10
)

// Client is the Transport over HTTP: no redirects, no cookies, no compression,
// and no connection kept from one slot to the next.
type Client struct {
	base *url.URL
	http *http.Client
}

// NewClient returns a client of the cloud at address, an http or https URL.
func NewClient(address string) (*Client, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Hostname() == "" {
		return nil, fmt.Errorf("the cloud's address %.100q is not of the form https://HOST", address)
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSHandshakeTimeout:    dialTime,
		TLSClientConfig:        clocklessTLS(base.Hostname(), nil),
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 is enough
		DisableCompression:     true,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: maxReplyHeaders,
	}
	return &Client{base: base, http: &http.Client{
		Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// Post sends msg to a path of the protocol and reads at most limit bytes of the
// answer.
func (c *Client) Post(ctx context.Context, path string, msg []byte, limit int) (Reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(msg))
	if err != nil {
		return Reply{}, fmt.Errorf("making a request: %w", err)
	}
	request.Header.Set("Content-Type", wire.ContentType)
	request.Header.Set("Cache-Control", "no-store")
	request.Header.Set("User-Agent", "ecowatt-agent")
	response, err := c.http.Do(request)
	if err != nil {
		return Reply{}, fmt.Errorf("asking the cloud: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(limit)+1))
	if err != nil {
		return Reply{}, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > limit {
		body = nil
	}
	return Reply{Status: response.StatusCode, Body: body}, nil
}

// stallTime is for how long a file may not go on before it is given up.
const stallTime = 60 * time.Second

// Get asks for n bytes of the file at path, from an offset on, and returns where
// the body begins: there, or at 0 where the server sends the whole file instead.
// What comes is bounded by nothing but its reader. It is given up when it does not
// go on for a minute.
func (c *Client) Get(ctx context.Context, path string, from, n uint64) (at uint64, body io.ReadCloser, err error) {
	ctx, cancel := context.WithCancel(ctx)
	stalled := time.AfterFunc(stallTime, cancel)
	end := func() { stalled.Stop(); cancel() }
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath(path).String(), nil)
	if err != nil {
		end()
		return 0, nil, fmt.Errorf("making a request: %w", err)
	}
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+n-1))
	request.Header.Set("User-Agent", "ecowatt-agent")
	response, err := c.http.Do(request)
	if err != nil {
		end()
		return 0, nil, fmt.Errorf("asking for a file: %w", err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		if _, err = fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &at); err != nil {
			err = fmt.Errorf("the server says %.60q of what it sends: %w", response.Header.Get("Content-Range"), err)
		}
	default:
		err = fmt.Errorf("the server answers %.60q to a request for %d bytes from %d on", response.Status, n, from)
	}
	if err != nil {
		response.Body.Close()
		end()
		return 0, nil, err
	}
	return at, &file{body: response.Body, stalled: stalled, end: end}, nil
}

// file is the body of a file that may stall.
type file struct {
	body    io.ReadCloser
	stalled *time.Timer
	end     func()
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	if n > 0 {
		f.stalled.Reset(stallTime)
	}
	return n, err
}

// Close ends the request, whether all of it was read or not.
func (f *file) Close() error {
	f.end()
	return f.body.Close()
}

// Close closes the idle connection, if there is one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// clocklessTLS verifies the server's name and chain at a time within its
// certificate's validity: a gateway whose clock was never set must be able to
// reach the cloud to learn the time. TLS is not what protects the exchange, the
// seal inside is (PROTOCOL section 1), so an expired certificate gives nothing
// away. roots is nil for those of the system.
func clocklessTLS(host string, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the server shows no certificate")
			}
			leaf := state.PeerCertificates[0]
			at := time.Now()
			if at.Before(leaf.NotBefore) {
				at = leaf.NotBefore
			}
			if at.After(leaf.NotAfter) {
				at = leaf.NotAfter
			}
			name := state.ServerName // that of a proxy, where there is one
			if name == "" {          // an address, which is never sent as a name
				name = host
			}
			o := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: at}
			for _, c := range state.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			_, err := leaf.Verify(o)
			return err
		},
	}
}
