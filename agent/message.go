package agent

import (
	"fmt"
	"io"
	"slices"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/agent/uplink"
	"ecowatt/block"
	"ecowatt/inverter"
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
// alone, so none can hold up the queue; a sample that alone is larger, and an
// inventory, is passed over by the buffer while it does not fit.
func leastRoom() int { return wire.MessageRoom(uplink.MinRequest) }

// maxRun is the most samples of one message: an hour and a half at one every 5 s.
// More of them hardly pack better, and who asks the cloud for a minute of them
// gets the whole message unpacked.
const maxRun = 1024

// placer tells when something was, in ms since 1970, that is known as a number
// of ms since a boot; 0 where that is not known.
type placer func(boot wire.BootID, mono int64) int64

// encodeRun makes telemetry messages of a run, oldest first: one, or where that
// would be larger than leastRoom those of its halves. Their times are since 1970
// where the boot has a place, else since the boot, for the cloud to place them.
func encodeRun(r buffer.Run, place placer, random io.Reader, emit func(m buffer.Message, samples int) error) error {
	b := ecowatt.Block{Inverter: r.Inverter, Points: r.Points, Samples: r.Samples}
	boot := wire.BootID(r.Boot)
	first := r.Samples[0].At
	at := place(boot, first)
	if at == 0 {
		return encodeBlock(b, &boot, random, emit)
	}
	b.Samples = shifted(b.Samples, at-first)
	return encodeBlock(b, nil, random, emit)
}

// shifted returns the samples with times that are by ms later.
func shifted(samples []ecowatt.Sample, by int64) []ecowatt.Sample {
	later := slices.Clone(samples)
	for i := range later {
		later[i].At += by
	}
	return later
}

func encodeBlock(b ecowatt.Block, since *wire.BootID, random io.Reader, emit func(m buffer.Message, samples int) error) error {
	t, err := smallest(b, since)
	if err != nil {
		return err
	}
	body, err := wire.EncodeTelemetry(t)
	if err != nil {
		return fmt.Errorf("encoding a telemetry block: %w", err)
	}
	m, err := newMessage(wire.KindTelemetry, body, random)
	if err != nil {
		return err
	}
	n := len(b.Samples)
	if n == 1 || wireMessage(m).EncodedSize() <= leastRoom() {
		return emit(m, n)
	}
	for _, half := range [][]ecowatt.Sample{b.Samples[:n/2], b.Samples[n/2:]} {
		b.Samples = half
		if err := encodeBlock(b, since, random, emit); err != nil {
			return err
		}
	}
	return nil
}

// smallest packs a block in the way that takes the fewest bytes.
func smallest(b ecowatt.Block, since *wire.BootID) (wire.TelemetryBlock, error) {
	plain, err := wire.PlainBlock(b, since)
	if err != nil || len(b.Points) > block.MaxPoints {
		return plain, err
	}
	data, err := block.Encode(ecowatt.Block{Points: b.Points, Samples: shifted(b.Samples, -b.Samples[0].At)})
	if err != nil {
		return wire.TelemetryBlock{}, fmt.Errorf("packing a block: %w", err)
	}
	if len(data) >= len(plain.Data) {
		return plain, nil
	}
	return wire.PackedBlock(b, since, data)
}

// encodeInventory makes the message that says what the device is made of: its
// settings, and what is known of each inverter, by their names.
func encodeInventory(s Settings, found map[string]acquire.Found, random io.Reader) (buffer.Message, error) {
	v := wire.Inventory{AgentVersion: ecowatt.Version, Hardware: s.Hardware, Inverters: map[string]wire.Inverter{}, ControlAllowed: s.AllowControl}
	for name, f := range found {
		x := wire.Inverter{
			Profile: f.Profile.Name, ProfileVersion: ecowatt.Version, // profiles come with the program
			Serial: f.Texts[inverter.Serial], Model: f.Texts[inverter.Model],
		}
		for _, r := range f.Profile.Registers { // also those that are not read now
			x.Points = append(x.Points, r.Point)
		}
		v.Inverters[name] = x
	}
	body, err := wire.EncodeInventory(v)
	if err != nil {
		return buffer.Message{}, fmt.Errorf("encoding the inventory: %w", err)
	}
	return newMessage(wire.KindInventory, body, random)
}
