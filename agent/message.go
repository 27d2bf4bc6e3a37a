package agent

import (
	"fmt"
	"io"
	"sort"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/agent/uplink"
	"ecowatt/wire"
)

// newMessage makes a message for the buffer, with an id of its own.
func newMessage(kind wire.Kind, body []byte, random io.Reader) (buffer.Message, error) {
	m := buffer.Message{Kind: uint64(kind), Body: body}
	if _, err := io.ReadFull(random, m.ID[:]); err != nil {
		return buffer.Message{}, fmt.Errorf("drawing a message id: %w", err)
	}
	return m, nil
}

// wireMessage is the message as it stands in a request.
func wireMessage(m buffer.Message) wire.Message {
	return wire.Message{ID: m.ID, Kind: wire.Kind(m.Kind), Body: m.Body}
}

// leastRoom is what even the smallest request has room for, in bytes of
// messages. Telemetry and log messages are made so that each fits into it
// alone, so none can hold up the queue; where one sample alone is larger, and
// for an inventory, the buffer passes over the message while it does not fit.
func leastRoom() int { return wire.MessageRoom(uplink.MinRequest) }

// maxRun returns how many samples of the widest of the inverters surely fit
// into one message; at least 1.
func maxRun(inverters []InverterSettings) int {
	least := wire.MaxMessages
	for _, in := range inverters {
		least = min(least, sort.Search(least, func(n int) bool {
			m, err := encodeRun(widestRun(in, n+1), nowhere, zeros{})
			return err != nil || wireMessage(m).EncodedSize() > leastRoom()
		}))
	}
	return max(least, 1)
}

// widestRun is a run of n samples whose encoding is as long as one can be.
func widestRun(in InverterSettings, n int) buffer.Run {
	const (
		longTime = 1 << 40 // 9 bytes of CBOR
		longStep = 1 << 17 // 5 bytes, as the distance of 32 days
	)
	values := make([]ecowatt.Value, len(in.Points))
	for i, name := range in.Points {
		r, _ := in.Profile.Register(name)
		values[i] = ecowatt.Known(1 << (16*r.Type.Words() - 2)) // as many bytes as the largest
	}
	run := buffer.Run{Inverter: in.Name, Points: in.Points, Samples: make([]ecowatt.Sample, n)}
	for i := range run.Samples {
		run.Samples[i] = ecowatt.Sample{At: longTime + int64(i)*longStep, Values: values}
	}
	return run
}

// zeros is a random source for messages that are only measured.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// placer tells when something was, in ms since 1970, that is known as a number
// of ms since a boot; 0 where that is not known.
type placer func(boot wire.BootID, mono int64) int64

// nowhere is the placer of who does not know the time.
func nowhere(wire.BootID, int64) int64 { return 0 }

// encodeRun makes a telemetry message: with times since 1970 where the boot has
// a place, else with times since the boot, for the cloud to place them. Samples
// that are not later than the one before them are left out: the protocol has no
// way to say them, and a message that cannot be made would hold up all others.
func encodeRun(r buffer.Run, place placer, random io.Reader) (buffer.Message, error) {
	block := ecowatt.Block{Inverter: r.Inverter, Points: r.Points, Samples: make([]ecowatt.Sample, 0, len(r.Samples))}
	boot := wire.BootID(r.Boot)
	var since *wire.BootID
	shift := int64(0)
	for i, s := range r.Samples {
		if i == 0 {
			if at := place(boot, s.At); at > 0 {
				shift = at - s.At
			} else {
				since = &boot
			}
		} else if s.At+shift <= block.Samples[len(block.Samples)-1].At {
			continue
		}
		block.Samples = append(block.Samples, ecowatt.Sample{At: s.At + shift, Values: s.Values})
	}
	t, err := wire.PlainBlock(block, since)
	if err != nil {
		return buffer.Message{}, err
	}
	body, err := wire.EncodeTelemetry(t)
	if err != nil {
		return buffer.Message{}, fmt.Errorf("encoding a telemetry block: %w", err)
	}
	return newMessage(wire.KindTelemetry, body, random)
}

// encodeInventory makes the message that says what the device is made of.
func encodeInventory(s Settings, random io.Reader) (buffer.Message, error) {
	v := wire.Inventory{AgentVersion: ecowatt.Version, Hardware: s.Hardware, Inverters: map[string]wire.Inverter{}, ControlAllowed: s.AllowControl}
	for _, in := range s.Inverters {
		x := wire.Inverter{Profile: in.Profile.Name, ProfileVersion: ecowatt.Version} // profiles come with the program
		for _, name := range in.Points {
			if r, ok := in.Profile.Register(name); ok {
				x.Points = append(x.Points, r.Point)
			}
		}
		v.Inverters[in.Name] = x
	}
	body, err := wire.EncodeInventory(v)
	if err != nil {
		return buffer.Message{}, fmt.Errorf("encoding the inventory: %w", err)
	}
	return newMessage(wire.KindInventory, body, random)
}
