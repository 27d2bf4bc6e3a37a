package modbus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// The form in which people write where an inverter is.
const (
	scheme      = "modbus-tcp"
	defaultPort = "502" // registered for Modbus with IANA
)

// ParseURL reads modbus-tcp://HOST:PORT and returns the address for NewClient.
// Without a port it is 502.
func ParseURL(s string) (address string, err error) {
	if s == "" {
		return "", errors.New("missing; say where the inverter is, as in " + scheme + "://192.168.1.20:502")
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != scheme || u.User != nil || u.Opaque != "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", fmt.Errorf("%.100q is not of the form %s://HOST:PORT", s, scheme)
	}
	host, port := u.Hostname(), u.Port()
	switch {
	case host == "":
		return "", fmt.Errorf("%.100q names no host", s)
	case port == "":
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%.100q: the port is not within 1 and 65535", s)
	}
	return net.JoinHostPort(host, port), nil
}
