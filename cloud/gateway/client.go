package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedMost is how many proxies a request may have come by; what lies beyond
// them is not looked at.
const forwardedMost = 16

// clientOf returns the address that a request comes from: the peer of the
// connection, or where that is one of the trusted proxies, the last address in
// X-Forwarded-For that is none. What stands before that one, anybody may have
// written. Where what a trusted proxy wrote is no address, the client is that
// proxy. The address is not valid where the connection has none.
func clientOf(r *http.Request, trusted []netip.Prefix) netip.Addr {
	client, ok := parseClient(r.RemoteAddr)
	if !ok {
		return netip.Addr{}
	}
	left := forwardedMost
	for _, line := range slices.Backward(r.Header.Values("X-Forwarded-For")) {
		for more := true; more; left-- {
			if left == 0 || !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(client) }) {
				return client
			}
			comma := strings.LastIndexByte(line, ',')
			before, ok := parseClient(strings.TrimSpace(line[comma+1:]))
			if !ok {
				return client
			}
			client, more = before, comma >= 0
			line = line[:max(comma, 0)]
		}
	}
	return client
}

// parseClient reads an address, with a port or without, as proxies write it.
func parseClient(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = withPort.Addr()
	}
	return a.Unmap().WithZone(""), true
}
