package modbus

import (
	"fmt"
	"io"
	"log/slog"
)

// Key is what the original simulator's interface asks for. It is sent, and never
// printed: string(k) is the only way to it.
type Key string

const hidden = "[key]"

// Format prints that there is a key, with any verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

func (k Key) String() string {
	if k == "" {
		return ""
	}
	return hidden
}

// MarshalText is String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
