package agent

import (
	"ecowatt/key"
	"ecowatt/wire"
)

// order makes a new key that the device is to be offered.
func (c *cloud) order(epoch key.Epoch, burn bool) *cloudKey {
	fresh := credential(c.t)
	fresh.Epoch = epoch
	k := &cloudKey{Credential: fresh, state: "pending", burn: burn}
	c.keys[k.ID] = k
	return k
}

// find returns the key of a state, nil for none.
func (c *cloud) find(state string) *cloudKey {
	for _, k := range c.keys {
		if k.state == state {
			return k
		}
	}
	return nil
}

// rotate does what an accepted request means for the device's keys (protocol,
// section 9), and returns what is to be offered. c.mu is held.
func (c *cloud) rotate(s *session, q wire.Request) *wire.KeyOffer {
	if s.with.state == "pending" {
		if old := c.find("active"); old != nil {
			old.state = "retired"
			if old.Epoch == 1 && !s.with.burn {
				old.state = "recovery"
			}
		}
		s.with.state, c.window = "active", false
		for id, other := range c.sessions {
			if other.with != s.with {
				delete(c.sessions, id)
			}
		}
	}
	if c.offer != nil {
		return c.offer
	}
	pending, newest := c.find("pending"), max(q.Epochs.Active, q.Epochs.Staged)
	if recovery := s.with.state == "recovery"; pending == nil && (recovery || newest > s.with.Epoch) {
		for _, k := range c.keys {
			newest = max(newest, k.Epoch)
		}
		pending = c.order(newest+1, false)
	}
	if pending == nil {
		return nil
	}
	return &wire.KeyOffer{Epoch: pending.Epoch, ID: pending.ID, Key: pending.Key, Burn: pending.burn}
}

// locked does something to the cloud while no request is under way.
func (c *cloud) locked(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

// restore brings the cloud back to when it knew these keys only, the last of
// which was active. Sessions are no part of a backup.
func (c *cloud) restore(keys ...*cloudKey) {
	c.locked(func() {
		clear(c.keys)
		clear(c.sessions)
		for i, k := range keys {
			restored := *k
			restored.state = "recovery"
			if i == len(keys)-1 {
				restored.state = "active"
			}
			c.keys[k.ID] = &restored
		}
	})
}

// count returns how many requests there were.
func (c *cloud) count() (n int) {
	c.locked(func() { n = len(c.requests) })
	return n
}

// active is the key with which the device is in.
func (c *cloud) active() (k *cloudKey) {
	c.locked(func() { k = c.find("active") })
	return k
}
