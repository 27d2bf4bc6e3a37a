package modbus

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseEndpoint(t *testing.T) {
	line := func(change func(*Line)) Endpoint {
		l := Line{Device: "/dev/ttyUSB0", Baud: 9600, StopBits: 1}
		change(&l)
		return Endpoint{Kind: KindRTU, Line: l}
	}
	for _, x := range []struct {
		url  string
		want Endpoint
	}{
		{"modbus-tcp://192.168.1.20:1502", Endpoint{Kind: KindTCP, Address: "192.168.1.20:1502"}},
		{"modbus-tcp://inverter.local", Endpoint{Kind: KindTCP, Address: "inverter.local:502"}},
		{"modbus-tcp://[fe80::1]", Endpoint{Kind: KindTCP, Address: "[fe80::1]:502"}},
		{"rtu-tcp://gateway:8899", Endpoint{Kind: KindRTUOverTCP, Address: "gateway:8899"}},
		{"modbus-tcp://h?idle=2s", Endpoint{Kind: KindTCP, Address: "h:502", Idle: 2 * time.Second}},
		{"rtu-tcp://h:1?idle=1m30s", Endpoint{Kind: KindRTUOverTCP, Address: "h:1", Idle: 90 * time.Second}},
		{"rtu:///dev/ttyUSB0", line(func(*Line) {})},
		{"rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1", line(func(*Line) {})},
		{"rtu:///dev/ttyUSB0?stop=2&data=8&baud=19200&parity=even&turnaround=20ms", line(func(l *Line) {
			l.Baud, l.Parity, l.StopBits, l.Turnaround = 19200, EvenParity, 2, 20*time.Millisecond
		})},
		{"rtu:///dev/ttyUSB0?parity=odd", line(func(l *Line) { l.Parity = OddParity })},
		{"rtu:///dev/serial/by-id/usb-FTDI%20x", line(func(l *Line) { l.Device = "/dev/serial/by-id/usb-FTDI x" })},
		{"http://localhost:8080", Endpoint{Kind: KindHTTP, Address: "http://localhost:8080"}},
		{"https://sim.example/v1/", Endpoint{Kind: KindHTTP, Address: "https://sim.example/v1"}},
	} {
		got, err := ParseEndpoint(x.url)
		if diff := cmp.Diff(x.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", x.url, err, diff)
		}
		if again, err := ParseEndpoint(got.String()); again != got || err != nil {
			t.Errorf("%s: written as %s, which reads as %+v, %v", x.url, got, again, err)
		}
	}
}

func TestParseEndpointRefuses(t *testing.T) {
	const (
		forms    = "none of the forms modbus-tcp://HOST:PORT, rtu:///dev/DEVICE?baud=9600&parity=none&stop=1, rtu-tcp://HOST:PORT, http://HOST:PORT and https://HOST:PORT"
		lineForm = "is not of the form rtu:///dev/DEVICE?baud=9600&parity=none&stop=1"
	)
	for _, x := range []struct{ url, want string }{
		{"", "missing; say where the inverter is, as in modbus-tcp://192.168.1.20:502 or rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1"},
		{"192.168.1.20:502", `"192.168.1.20:502" is ` + forms},
		{"/dev/ttyUSB0", `"/dev/ttyUSB0" is ` + forms},
		{"udp://host:1", `"udp://host:1" is ` + forms},
		{"modbus-tcp://host:0", `"modbus-tcp://host:0": the port is not within 1 and 65535`},
		{"modbus-tcp://host/1", `"modbus-tcp://host/1" is not of the form modbus-tcp://HOST:PORT`},
		{"rtu-tcp://host", `"rtu-tcp://host" names no port: write rtu-tcp://HOST:PORT`},
		{"rtu-tcp://:5", `"rtu-tcp://:5" names no host`},
		{"rtu-tcp://host:70000", `"rtu-tcp://host:70000": the port is not within 1 and 65535`},
		{"rtu-tcp://host:1?baud=9600", `"rtu-tcp://host:1?baud=9600" is not of the form rtu-tcp://HOST:PORT or rtu-tcp://HOST:PORT?idle=2s`},
		{"modbus-tcp://host?idle=2", `"modbus-tcp://host?idle=2": idle: "2" is not within 1ms and 1h0m0s, as in 2s`},
		{"modbus-tcp://host?idle=0s", `"modbus-tcp://host?idle=0s": idle: "0s" is not within 1ms and 1h0m0s, as in 2s`},
		{"modbus-tcp://host?idle=2s&idle=3s", `"modbus-tcp://host?idle=2s&idle=3s": idle: "2s&idle=3s" is not within 1ms and 1h0m0s, as in 2s`},
		{"rtu://dev/ttyUSB0", `"rtu://dev/ttyUSB0" ` + lineForm},
		{"rtu:ttyUSB0", `"rtu:ttyUSB0" ` + lineForm},
		{"rtu:///", `"rtu:///" ` + lineForm},
		{"rtu:///dev/../etc/passwd", `"rtu:///dev/../etc/passwd" ` + lineForm},
		{"rtu:///dev/ttyUSB0?baud=9600;stop=1", `"rtu:///dev/ttyUSB0?baud=9600;stop=1": what follows the ? is not of the form NAME=VALUE&NAME=VALUE`},
		{"rtu:///dev/ttyUSB0?baud=fast", `"rtu:///dev/ttyUSB0?baud=fast": baud: "fast" is not within 300 and 4000000`},
		{"rtu:///dev/ttyUSB0?baud=110", `"rtu:///dev/ttyUSB0?baud=110": baud: "110" is not within 300 and 4000000`},
		{"rtu:///dev/ttyUSB0?baud=9600&baud=19200", `"rtu:///dev/ttyUSB0?baud=9600&baud=19200": baud stands twice`},
		{"rtu:///dev/ttyUSB0?parity=N", `"rtu:///dev/ttyUSB0?parity=N": parity: "N" is none of none, even and odd`},
		{"rtu:///dev/ttyUSB0?data=7", `"rtu:///dev/ttyUSB0?data=7": data: "7" is not 8, which RTU frames need`},
		{"rtu:///dev/ttyUSB0?stop=1.5", `"rtu:///dev/ttyUSB0?stop=1.5": stop: "1.5" is none of 1 and 2`},
		{"rtu:///dev/ttyUSB0?turnaround=2s", `"rtu:///dev/ttyUSB0?turnaround=2s": turnaround: "2s" is not within 0s and 1s, as in 20ms`},
		{"rtu:///dev/ttyUSB0?unit=17", `"rtu:///dev/ttyUSB0?unit=17": there is no "unit": write baud, parity, data, stop or turnaround`},
		{"http://secret@host", `http://host: a name or key does not belong in the address; the key has a setting of its own`},
		{"http://:80", `"http://:80" names no host`},
		{"http://host:99999", `"http://host:99999": the port is not within 1 and 65535`},
		{"https://host?key=1", `"https://host?key=1" is not of the form https://HOST:PORT`},
	} {
		got, err := ParseEndpoint(x.url)
		if got != (Endpoint{}) || fmt.Sprint(err) != x.want {
			t.Errorf("%s: %+v\n got %v\nwant %s", x.url, got, err, x.want)
		}
	}
}

func TestEndpointClient(t *testing.T) {
	for url, want := range map[string]string{
		"modbus-tcp://h": "*modbus.Client *modbus.mbap", "rtu-tcp://h:1": "*modbus.Client *modbus.rtu",
		"rtu:///dev/x": "*modbus.Client *modbus.rtu sturdy", "http://h": "*modbus.HTTPClient",
	} {
		e, err := ParseEndpoint(url)
		if err != nil {
			t.Fatal(err)
		}
		transport := e.Client(ClientOptions{})
		got := fmt.Sprintf("%T", transport)
		if c, ok := transport.(*Client); ok {
			got += fmt.Sprintf(" %T", c.framing)
			if c.sturdy {
				got += " sturdy"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
		if err := transport.Close(); err != nil {
			t.Error(err)
		}
	}
}
