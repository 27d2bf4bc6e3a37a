package modbus

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what an endpoint speaks.
type Kind byte

// The kinds.
const (
	KindTCP        Kind = iota // Modbus TCP
	KindRTU                    // RTU frames on a serial line
	KindRTUOverTCP             // RTU frames on a TCP connection
	KindHTTP                   // RTU frames in HTTP requests, the original simulator's interface
)

// Endpoint says where units are and how they are reached. Those that are equal
// are one line, and share a Bus; a device or an address with two sets of settings
// is a mistake.
type Endpoint struct {
	Kind    Kind
	Address string // host:port; of KindHTTP the base URL; of KindRTU empty
	Line    Line   // of KindRTU

	// Idle is after how long without a request a TCP connection is given up, for
	// inverters that take only one and have others to talk to; 0: never.
	Idle time.Duration
}

// endpointForms are the forms that ParseEndpoint reads.
const endpointForms = "modbus-tcp://HOST:PORT, rtu:///dev/DEVICE?baud=9600&parity=none&stop=1, rtu-tcp://HOST:PORT, http://HOST:PORT and https://HOST:PORT"

const (
	scheme      = "modbus-tcp"
	defaultPort = "502" // registered for Modbus with IANA
)

// Limits of a serial line's settings.
const (
	minBaud       = 300
	maxBaud       = 4_000_000
	maxTurnaround = time.Second
)

// maxIdle is the longest Idle.
const maxIdle = time.Hour

// ParseEndpoint reads where units are:
//
//	modbus-tcp://HOST:PORT         Modbus TCP; without a port it is 502. With ?idle=2s
//	                               the connection is given up after so long without
//	                               a request, 1ms to 1h
//	rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1
//	                               a serial line. baud is 300 to 4000000, parity
//	                               none, even or odd, stop 1 or 2; data may say 8,
//	                               and turnaround a time, as in 20ms: see Line.
//	                               What is left out is as in the example
//	rtu-tcp://HOST:PORT            RTU frames over TCP; ?idle=2s as above
//	http://HOST:PORT, https://…    the original simulator's interface
//
// The error is one line that says what is wrong and how it is to be.
func ParseEndpoint(s string) (Endpoint, error) {
	if s == "" {
		return Endpoint{}, errors.New("missing; say where the inverter is, as in modbus-tcp://192.168.1.20:502 or rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1")
	}
	u, err := url.Parse(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%.100q is none of the forms %s", s, endpointForms)
	}
	var e Endpoint
	switch u.Scheme {
	case scheme:
		e = Endpoint{Kind: KindTCP}
		e.Address, e.Idle, err = hostPort(u, s, scheme+"://HOST:PORT", defaultPort)
	case "rtu-tcp":
		e = Endpoint{Kind: KindRTUOverTCP}
		e.Address, e.Idle, err = hostPort(u, s, "rtu-tcp://HOST:PORT", "")
	case "rtu":
		e = Endpoint{Kind: KindRTU}
		e.Line, err = parseLine(u, s)
	case "http", "https":
		e = Endpoint{Kind: KindHTTP}
		e.Address, err = baseURL(u, s)
	default:
		err = fmt.Errorf("%.100q is none of the forms %s", s, endpointForms)
	}
	if err != nil {
		return Endpoint{}, err
	}
	return e, nil
}

// hostPort returns the host:port and the idle time of u, which was written as s
// and may have nothing else. Without a port it is byDefault, unless that is empty.
func hostPort(u *url.URL, s, form, byDefault string) (address string, idle time.Duration, err error) {
	if u.User != nil || u.Opaque != "" || u.Path != "" || u.ForceQuery || u.Fragment != "" {
		return "", 0, fmt.Errorf("%.100q is not of the form %s", s, form)
	}
	if u.RawQuery != "" {
		value, ok := strings.CutPrefix(u.RawQuery, "idle=")
		if !ok {
			return "", 0, fmt.Errorf("%.100q is not of the form %s or %s?idle=2s", s, form, form)
		}
		if idle, err = time.ParseDuration(value); err != nil || idle < time.Millisecond || idle > maxIdle {
			return "", 0, fmt.Errorf("%.100q: idle: %.40q is not within 1ms and %v, as in 2s", s, value, maxIdle)
		}
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), byDefault)
	switch {
	case host == "":
		return "", 0, fmt.Errorf("%.100q names no host", s)
	case port == "":
		return "", 0, fmt.Errorf("%.100q names no port: write %s", s, form)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", 0, fmt.Errorf("%.100q: the port is not within 1 and 65535", s)
	}
	return net.JoinHostPort(host, port), idle, nil
}

// baseURL returns the http or https URL u, which was written as s, in one form.
func baseURL(u *url.URL, s string) (string, error) {
	switch {
	case u.User != nil:
		return "", fmt.Errorf("%s://%s: a name or key does not belong in the address; the key has a setting of its own", u.Scheme, u.Host)
	case u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%.100q is not of the form %s://HOST:PORT", s, u.Scheme)
	case u.Hostname() == "":
		return "", fmt.Errorf("%.100q names no host", s)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("%.100q: the port is not within 1 and 65535", s)
		}
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// parseLine reads the serial line u, which was written as s.
func parseLine(u *url.URL, s string) (Line, error) {
	if u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" || len(u.Path) < 2 || path.Clean(u.Path) != u.Path {
		return Line{}, fmt.Errorf("%.100q is not of the form rtu:///dev/DEVICE?baud=9600&parity=none&stop=1", s)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Line{}, fmt.Errorf("%.100q: what follows the ? is not of the form NAME=VALUE&NAME=VALUE", s)
	}
	l := Line{Device: u.Path, Baud: DefaultBaud, StopBits: 1}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if len(query[name]) > 1 {
			return Line{}, fmt.Errorf("%.100q: %.40s stands twice", s, name)
		}
		if err := l.set(name, query.Get(name)); err != nil {
			return Line{}, fmt.Errorf("%.100q: %w", s, err)
		}
	}
	return l, nil
}

// set sets what a query calls name.
func (l *Line) set(name, value string) error {
	switch name {
	case "baud":
		n, err := strconv.Atoi(value)
		if err != nil || n < minBaud || n > maxBaud {
			return fmt.Errorf("baud: %.40q is not within %d and %d", value, minBaud, maxBaud)
		}
		l.Baud = n
	case "parity":
		switch value {
		case "none":
			l.Parity = NoParity
		case "even":
			l.Parity = EvenParity
		case "odd":
			l.Parity = OddParity
		default:
			return fmt.Errorf("parity: %.40q is none of none, even and odd", value)
		}
	case "data":
		if value != "8" {
			return fmt.Errorf("data: %.40q is not 8, which RTU frames need", value)
		}
	case "stop":
		if value != "1" && value != "2" {
			return fmt.Errorf("stop: %.40q is none of 1 and 2", value)
		}
		l.StopBits = int(value[0] - '0')
	case "turnaround":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxTurnaround {
			return fmt.Errorf("turnaround: %.40q is not within 0s and %v, as in 20ms", value, maxTurnaround)
		}
		l.Turnaround = d
	default:
		return fmt.Errorf("there is no %.40q: write baud, parity, data, stop or turnaround", name)
	}
	return nil
}

// String returns a form that ParseEndpoint reads as e.
func (e Endpoint) String() string {
	idle := ""
	if e.Idle > 0 {
		idle = "?idle=" + e.Idle.String()
	}
	switch e.Kind {
	case KindTCP:
		return scheme + "://" + e.Address + idle
	case KindRTUOverTCP:
		return "rtu-tcp://" + e.Address + idle
	case KindHTTP:
		return e.Address
	case KindRTU:
		l := e.Line
		s := fmt.Sprintf("rtu://%s?baud=%d&parity=%v&stop=%d", (&url.URL{Path: l.Device}).EscapedPath(), cmp.Or(l.Baud, DefaultBaud), l.Parity, cmp.Or(l.StopBits, 1))
		if l.Turnaround > 0 {
			s += "&turnaround=" + l.Turnaround.String()
		}
		return s
	}
	return fmt.Sprintf("endpoint of kind %d", byte(e.Kind))
}

// Client returns a client of the units at e. It does not connect yet.
func (e Endpoint) Client(o ClientOptions) Transport {
	o.Idle = cmp.Or(e.Idle, o.Idle)
	switch e.Kind {
	case KindRTU:
		return NewSerialClient(e.Line, o)
	case KindRTUOverTCP:
		return NewRTUClient(e.Address, o)
	case KindHTTP:
		return NewHTTPClient(e.Address, o)
	case KindTCP:
	}
	return NewClient(e.Address, o)
}
