package modbus

import "testing"

func TestParseURL(t *testing.T) {
	for _, x := range []struct{ url, address, err string }{
		{"modbus-tcp://192.168.1.20:1502", "192.168.1.20:1502", ""},
		{"modbus-tcp://inverter.local", "inverter.local:502", ""},
		{"modbus-tcp://[fe80::1]:502", "[fe80::1]:502", ""},
		{"modbus-tcp://[::1]", "[::1]:502", ""},
		{"", "", "missing; say where the inverter is, as in modbus-tcp://192.168.1.20:502"},
		{"192.168.1.20:502", "", `"192.168.1.20:502" is not of the form modbus-tcp://HOST:PORT`},
		{"http://192.168.1.20", "", `"http://192.168.1.20" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp:host", "", `"modbus-tcp:host" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://me@host", "", `"modbus-tcp://me@host" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://host/17", "", `"modbus-tcp://host/17" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://host?unit=17", "", `"modbus-tcp://host?unit=17" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://host#17", "", `"modbus-tcp://host#17" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://host:port", "", `"modbus-tcp://host:port" is not of the form modbus-tcp://HOST:PORT`},
		{"modbus-tcp://:502", "", `"modbus-tcp://:502" names no host`},
		{"modbus-tcp://host:0", "", `"modbus-tcp://host:0": the port is not within 1 and 65535`},
		{"modbus-tcp://host:65536", "", `"modbus-tcp://host:65536": the port is not within 1 and 65535`},
	} {
		address, err := ParseURL(x.url)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if address != x.address || text != x.err {
			t.Errorf("%s: %q, %s; want %q, %s", x.url, address, text, x.address, x.err)
		}
	}
}
