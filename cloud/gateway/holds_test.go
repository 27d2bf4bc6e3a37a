package gateway

import (
	"fmt"
	"testing"

	"ecowatt"
)

// Only so many answers are held; what ends makes room, and nothing stays behind.
func TestHoldsAreBounded(t *testing.T) {
	h := newHolds()
	var all []*hold
	for i := range heldMost {
		x := h.begin(ecowatt.DeviceID(fmt.Sprintf("d%d", i%(heldMost/2)))) // two of each device
		if x == nil {
			t.Fatalf("%d is too many", i)
		}
		all = append(all, x)
	}
	if h.begin("one-more") != nil {
		t.Error("there is no bound")
	}
	h.accepted("d0", all[0])
	select {
	case <-all[heldMost/2].over:
	default:
		t.Error("the earlier request of d0 still waits")
	}
	select {
	case <-all[0].over:
		t.Error("the request that was accepted does not wait any more")
	default:
	}
	if x := h.begin("one-more"); x == nil {
		t.Error("what is over takes room")
	} else {
		h.end(x)
		h.end(x)
	}
	h.wake("nobody")
	for _, x := range all {
		h.end(x)
	}
	h.end(nil)
	if h.count() != 0 || len(h.waiting) != 0 {
		t.Errorf("%d held, %d devices", h.count(), len(h.waiting))
	}
}
