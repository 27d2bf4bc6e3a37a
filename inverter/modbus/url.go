package modbus

import (
	"errors"
	"fmt"
	"net/url"
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
	form := scheme + "://HOST:PORT"
	u, err := url.Parse(s)
	if err != nil || u.Scheme != scheme {
		return "", fmt.Errorf("%.100q is not of the form %s", s, form)
	}
	return hostPort(u, s, form, defaultPort)
}
