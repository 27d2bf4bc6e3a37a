package modbus

import "go.bug.st/serial"

// NewSerialClientOn is NewSerialClient for a port that open opens.
func NewSerialClientOn(l Line, o ClientOptions, open func() (serial.Port, error)) *Client {
	return newSerialClient(l, o, func() (*port, error) {
		p, err := open()
		if err != nil {
			return nil, err
		}
		return &port{Port: p}, nil
	})
}
