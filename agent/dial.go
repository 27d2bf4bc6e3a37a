package agent

import (
	"context"

	"ecowatt/agent/acquire"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// modbusSource reads the inverters of one bus.
type modbusSource struct{ bus *modbus.Bus }

// Read carries out one read.
func (s modbusSource) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	return s.bus.Do(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
}

// dialModbus makes the sources of inverters: those behind one endpoint share a
// bus, on which one request waits for the other. It keeps the pace of the one
// that needs most time.
func dialModbus(inverters []InverterSettings) func(InverterSettings) acquire.Source {
	pace := map[modbus.Endpoint]inverter.Timing{}
	for _, in := range inverters {
		pace[in.Connect] = slower(pace[in.Connect], in.Profile.Timing)
	}
	buses := map[modbus.Endpoint]*modbus.Bus{}
	for at, t := range pace {
		client := at.Client(modbus.ClientOptions{Timeout: t.Timeout, ConnectDelay: t.Connect})
		buses[at] = modbus.NewBus(client, modbus.BusOptions{Gap: t.Gap})
	}
	return func(in InverterSettings) acquire.Source { return modbusSource{buses[in.Connect]} }
}

// slower is a pace that is enough for a and for b.
func slower(a, b inverter.Timing) inverter.Timing {
	return inverter.Timing{Connect: max(a.Connect, b.Connect), Gap: max(a.Gap, b.Gap), Timeout: max(a.Timeout, b.Timeout)}
}
