package agent

import (
	"fmt"
	"io"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/agent/uplink"
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
