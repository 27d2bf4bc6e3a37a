package e2e

import (
	"testing"
	"time"
)

// TestHeldLine: where a device listens between its slots a command does not wait
// for the next one, and what is measured meanwhile goes up in its slots all the same.
func TestHeldLine(t *testing.T) {
	t.Parallel()
	f := newControlled(t, 1)
	f.startRoof(t, "roof-1")
	f.inForceNow(t, "roof-1", "upload_interval=120")
	var took []time.Duration
	for _, percent := range []string{"60", "50", "40"} {
		o := f.ended(t, "read", "roof-1", "pac")
		if o.State != "succeeded" || o.EndedAt.Sub(o.QueuedAt) > time.Minute {
			t.Errorf("%v: after %v, in a slot of two minutes", o, o.EndedAt.Sub(o.QueuedAt))
		}
		took = append(took, o.EndedAt.Sub(o.QueuedAt))
		if o := f.ended(t, "limit", "roof-1", percent); o.State != "succeeded" {
			t.Errorf("%v", o)
		}
	}
	t.Logf("from the queue to the end: %v", took)

	f.inForceNow(t, "roof-1", "upload_interval=4")
	for range 2 {
		n := f.stored(t, "roof-1")
		eventually(t, "samples go up between held requests", func() bool { return f.stored(t, "roof-1") > n })
	}
}

// stored is how many samples the cloud has of a device.
func (f *fleet) stored(t *testing.T, name string) (n int) {
	t.Helper()
	for _, in := range parseJSON[stored](t, must(t, f.env, "ecowatt", "telemetry", "show", name, "--since", "1h", "--json")).Inverters {
		n += len(in.Samples)
	}
	return n
}
