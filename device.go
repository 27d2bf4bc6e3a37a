package ecowatt

import (
	"errors"
	"fmt"
)

// MaxNameLength is the longest device, group, inverter or point name, in bytes.
const MaxNameLength = 64

// DeviceID names a device in the whole fleet: 1 to 64 lower-case letters,
// digits, '-', '_' and '.', beginning with a letter or a digit. It is shown to
// people and stands in URLs; it is never sent by the device itself, whose
// identity is the session.
type DeviceID string

// ErrName says that a name is not of the form ParseDeviceID and ParseName ask for.
var ErrName = errors.New("not a valid name")

// ParseDeviceID checks s. The error wraps ErrName and says what is wrong.
func ParseDeviceID(s string) (DeviceID, error) {
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("device id %.80q: %w", s, err)
	}
	return DeviceID(s), nil
}

// ParseName checks the name of a group, an inverter or a point: the same form
// as a device id. what ("inverter", say) names the thing in the error.
func ParseName(what, s string) (string, error) {
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("%s %.80q: %w", what, s, err)
	}
	return s, nil
}

func checkName(s string) error {
	if s == "" {
		return fmt.Errorf("%w: it is empty", ErrName)
	}
	if len(s) > MaxNameLength {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrName, len(s), MaxNameLength)
	}
	for i := range len(s) {
		c := s[i]
		letterOrDigit := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		mark := c == '-' || c == '_' || c == '.'
		if !letterOrDigit && (!mark || i == 0) {
			return fmt.Errorf("%w: use a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit", ErrName)
		}
	}
	return nil
}
