package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/key"
)

const (
	defaultURL = "http://127.0.0.1:8080"
	// maxAnswer bounds an answer that is held in memory, in bytes.
	maxAnswer = 64 << 20
	// idleTime is how long the cloud may be silent in the middle of an answer.
	idleTime = time.Minute
)

// client asks the cloud's API as the operator.
type client struct {
	base  string // without a final slash
	token key.Token
	http  *http.Client
}

// tokenFlag adds the flag that names the file of the operator's token.
func tokenFlag(c *cobra.Command) *string {
	return c.Flags().String("token-file", "", "file of the operator's token (instead of ECOWATT_TOKEN and ECOWATT_TOKEN_FILE)")
}

// client returns a client of the cloud that the environment names. tokenFile
// is the value of tokenFlag.
func (a *app) client(tokenFile string) (*client, error) {
	base := a.getenv("ECOWATT_URL")
	if base == "" {
		base = defaultURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("ECOWATT_URL: %q is not of the form http://HOST:PORT or https://HOST", base)
	}
	token, err := a.token(tokenFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &client{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: idleTime,
			ExpectContinueTimeout: 5 * time.Second,
			ForceAttemptHTTP2:     true,
		},
		// A token is shown to nobody but the cloud that was named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// token finds the operator's token. It is never printed.
func (a *app) token(file string) (key.Token, error) {
	text, from := a.getenv("ECOWATT_TOKEN"), "ECOWATT_TOKEN"
	if file == "" && text == "" {
		file = a.getenv("ECOWATT_TOKEN_FILE")
	}
	if file != "" {
		var err error
		if text, err = readTokenFile(file); err != nil {
			return key.Token{}, err
		}
		from = file
	}
	if text == "" {
		return key.Token{}, &failure{
			code: exitRefused, err: errors.New("no token to show to the cloud"),
			hint: "Set ECOWATT_TOKEN, or ECOWATT_TOKEN_FILE to the file 'token' in the data folder of 'ecowatt serve'.",
		}
	}
	token, err := key.ParseToken(strings.TrimSpace(text))
	if err != nil {
		return key.Token{}, &failure{code: exitRefused, err: fmt.Errorf("%s holds no token of the form ew_…", from)}
	}
	return token, nil
}

func readTokenFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", &failure{code: exitFailed, err: fmt.Errorf("reading the token: %w", err)}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", &failure{
			code: exitFailed,
			err:  fmt.Errorf("token file %s is open to others (mode %04o)", name, info.Mode().Perm()),
			hint: "Close it with: chmod 600 " + name,
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return "", fmt.Errorf("reading the token from %s: %w", name, err)
	}
	return string(text), nil
}

// get asks for path and decodes the answer into out.
func (c *client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path+encoded(query), nil, out)
}

// send sends in as JSON and decodes the answer into out.
func (c *client) send(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encoding a request: %w", err)
	}
	return c.call(ctx, method, path, body, out)
}

func encoded(query url.Values) string {
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// call makes a request and decodes the answer into out, which is nil where
// success is all there is to know.
func (c *client) call(ctx context.Context, method, path string, in []byte, out any) error {
	return c.callWith(ctx, method, path, in, nil, out)
}

// callWith is call with further headers.
func (c *client) callWith(ctx context.Context, method, path string, in []byte, header map[string]string, out any) error {
	body, err := c.openWith(ctx, method, path, in, header)
	if err != nil {
		return err
	}
	return decodeAnswer(body, out)
}

// upload sends a file of size bytes and decodes the answer into out.
func (c *client) upload(ctx context.Context, path, mediaType string, file io.Reader, size int64, out any) error {
	req, err := http.NewRequest(http.MethodPost, c.base+path, file) //nolint:noctx // exchange gives it one
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Expect", "100-continue") // who may not is told before anything is sent
	body, err := c.exchange(ctx, req)
	if err != nil {
		return err
	}
	return decodeAnswer(body, out)
}

func decodeAnswer(body io.ReadCloser, out any) error {
	defer body.Close()
	answer, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the cloud's answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the cloud's answer cannot be understood: %w", err)
	}
	return nil
}

// open makes a request and returns the body of its answer, which fails when
// the cloud falls silent. An answer that is no success is an error.
func (c *client) open(ctx context.Context, method, path string, in []byte) (io.ReadCloser, error) {
	return c.openWith(ctx, method, path, in, nil)
}

func (c *client) openWith(ctx context.Context, method, path string, in []byte, header map[string]string) (io.ReadCloser, error) {
	req, err := http.NewRequest(method, c.base+path, bytes.NewReader(in)) //nolint:noctx // exchange gives it one
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	return c.exchange(ctx, req)
}

// exchange makes a request as the operator.
func (c *client) exchange(ctx context.Context, req *http.Request) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req = req.WithContext(ctx)
	req.Header.Set("Authorization", "Bearer "+c.token.Text())
	req.Header.Set("User-Agent", "ecowatt/"+ecowatt.Version)
	resp, err := c.http.Do(req) //nolint:bodyclose // watched.Close closes it
	if err != nil {
		cancel(nil)
		return nil, c.unreachable(err)
	}
	var body io.ReadCloser = &watched{
		ReadCloser: resp.Body, ctx: ctx, cancel: cancel,
		timer: time.AfterFunc(idleTime, func() { cancel(errSilent) }),
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer body.Close()
		return nil, c.refusal(resp, body)
	}
	return body, nil
}

// Errors of a cloud that is away, perhaps only for now.
var (
	errAway   = errors.New("does not answer")
	errCut    = errors.New("the answer was cut off")
	errSilent = fmt.Errorf("the cloud fell silent for %v", idleTime)
)

// passing reports whether an error may be gone when the cloud is asked again.
func passing(err error) bool {
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return refused.status >= http.StatusInternalServerError || refused.status == http.StatusTooManyRequests
	}
	return errors.Is(err, errAway) || errors.Is(err, errCut)
}

// watched is a body that is given up when nothing comes any more.
type watched struct {
	io.ReadCloser
	ctx    context.Context // of the request whose body this is
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.timer.Reset(idleTime)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case w.ctx.Err() != nil:
		err = context.Cause(w.ctx)
	}
	return n, fmt.Errorf("%w: %w", errCut, err)
}

func (w *watched) Close() error {
	w.timer.Stop()
	err := w.ReadCloser.Close()
	w.cancel(nil)
	return err
}

// unreachable is the error of a request without an answer.
func (c *client) unreachable(err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // without the method and path, which say nothing to people
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return hinted(fmt.Errorf("the cloud at %s %w: %w", c.base, errAway, err),
		"Start it with 'ecowatt serve', or name another one with ECOWATT_URL.")
}

// problem is a problem document (RFC 9457), as the cloud writes it.
type problem struct {
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

// refusedError is an answer that is no success.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string { return e.text }

// refusal makes an error of an answer that is no success, with the exit code
// that goes with its status.
func (c *client) refusal(resp *http.Response, body io.Reader) error {
	e := &refusedError{status: resp.StatusCode, text: fmt.Sprintf("%s answers %q; is it an EcoWatt cloud?", c.base, resp.Status)}
	if location := resp.Header.Get("Location"); location != "" {
		e.text = fmt.Sprintf("%s answers with a redirection to %s: name the cloud itself with ECOWATT_URL", c.base, location)
	}
	var p problem
	if err := json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&p); err == nil && p.Detail != "" {
		if e.text = p.text(); resp.StatusCode == http.StatusConflict {
			e.text = p.Detail // no field is wrong: it cannot be done as things are
		}
	}
	f := &failure{code: exitFailed, err: e}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		f.code, f.hint = exitRefused, "The cloud at "+c.base+" does not know this token; see ECOWATT_TOKEN, ECOWATT_TOKEN_FILE and --token-file."
	case http.StatusForbidden:
		f.code = exitRefused
	case http.StatusNotFound:
		f.code = exitNotFound
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		f.code = exitUsage
	}
	return f
}

// text names each field that is wrong, where the problem names any.
func (p problem) text() string {
	var wrong []string
	for _, e := range p.Errors {
		_, name, found := strings.Cut(e.Location, ".")
		if !found {
			name = e.Location
		}
		if name != "" && !strings.HasPrefix(e.Message, name) {
			name += ": "
		} else {
			name = ""
		}
		wrong = append(wrong, name+e.Message)
	}
	if len(wrong) == 0 {
		return p.Detail
	}
	return strings.Join(wrong, "; ")
}
