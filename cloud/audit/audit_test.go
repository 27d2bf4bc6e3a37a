package audit

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRecordAsJSON: the shape is what programs read, and is kept.
func TestRecordAsJSON(t *testing.T) {
	full := Record{
		N: 7, At: time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC), Actor: Actor{Kind: Operator, Name: "ada"}, Device: "roof",
		Action: "device.added", Text: "device added", Attrs: map[string]string{"group": "north"},
	}
	bare := Record{N: 8, At: full.At, Actor: Actor{Kind: System, Name: "access"}, Action: "token.created", Text: "token created"}
	for want, r := range map[string]Record{
		`{"n":7,"at":"2026-03-01T12:00:00.25Z","actor":{"kind":"operator","name":"ada"},"device":"roof",` +
			`"action":"device.added","text":"device added","attrs":{"group":"north"}}`: full,
		`{"n":8,"at":"2026-03-01T12:00:00.25Z","actor":{"kind":"system","name":"access"},` +
			`"action":"token.created","text":"token created"}`: bare,
	} {
		text, err := json.Marshal(r)
		if diff := cmp.Diff(want, string(text)); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		var back Record
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("coming back (-want +got):\n%s", diff)
		}
	}
}
