package registry

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"ecowatt"
	"ecowatt/key"
)

// Enrolment is what a new device needs to find the cloud and to prove itself
// (PROTOCOL section 11). It holds the key in the clear and goes to one place,
// once: a file of mode 0600, written with Encode, which the agent imports and
// then removes. Every other way of printing it fails or hides the key.
type Enrolment struct {
	DeviceID     ecowatt.DeviceID
	CloudURL     string
	Epoch        key.Epoch
	PSKID        key.ID
	Key          key.Device
	FirmwareRoot []byte // the root of trust for firmware; empty where there is none yet
}

// Encode returns the enrolment file, JSON with a final newline. It is the one
// way in which a device key leaves the cloud in the clear.
func (e Enrolment) Encode() ([]byte, error) {
	if e.Key.IsZero() {
		return nil, fmt.Errorf("encoding the enrolment of %s: %w", e.DeviceID, errNoKey)
	}
	secret := e.Key.Secret()
	defer clear(secret[:])
	file, err := json.MarshalIndent(struct {
		DeviceID     string `json:"device_id"`
		CloudURL     string `json:"cloud_url"`
		Epoch        uint32 `json:"epoch"`
		PSKID        string `json:"psk_id"`
		Key          string `json:"key"`
		FirmwareRoot string `json:"firmware_root"`
	}{
		DeviceID:     string(e.DeviceID),
		CloudURL:     e.CloudURL,
		Epoch:        uint32(e.Epoch),
		PSKID:        hex.EncodeToString(e.PSKID[:]),
		Key:          base64.StdEncoding.EncodeToString(secret[:]),
		FirmwareRoot: base64.StdEncoding.EncodeToString(e.FirmwareRoot),
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the enrolment of %s: %w", e.DeviceID, err)
	}
	return append(file, '\n'), nil
}

var errNoKey = errors.New("it has no key")

// MarshalJSON refuses: an enrolment is written with Encode and nowhere else.
func (Enrolment) MarshalJSON() ([]byte, error) {
	return nil, errors.New("an enrolment holds a key: use Encode, for the enrolment file only")
}
