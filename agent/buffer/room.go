package buffer

import "slices"

// makeRoom makes the buffer smaller while it takes more of the disk than it may:
// the newest data are worth more, and none are refused. Samples are thinned out,
// the oldest first; only when that gives no more room are the oldest data given
// up.
func (b *Buffer) makeRoom() {
	for b.size() > b.limit {
		if f := b.shrinkable(); f != nil {
			b.shrink(f)
		} else if !b.giveUp() {
			return
		}
	}
}

// giveUp removes the oldest file, and reports whether that made room. It spares
// the journal in use and, of each kind of message that was put, the newest: the
// cloud would not understand the samples without the inventory.
func (b *Buffer) giveUp() bool {
	f := b.oldest()
	if f == nil {
		return false
	}
	samples, messages := uint64(f.samples), 0
	for _, e := range f.messages {
		switch {
		case e.settled:
		case e.samples > 0:
			samples += uint64(e.samples)
		default:
			messages++
		}
	}
	b.dropped += samples
	b.logger.Error("the buffer is full; its oldest data are given up", "code", codeFull,
		"file", f.name(), "samples", samples, "messages", messages, "limit", b.limit)
	if err := b.remove(f); err != nil {
		b.logger.Error("the disk does not give room back", "code", codeFull, "file", f.name(), "error", err)
		return false
	}
	return true
}

// oldest returns the oldest file that is not spared, or nil.
func (b *Buffer) oldest() *file {
	var found *file
	newest := map[uint64]bool{} // kinds of messages that were put
	for _, f := range slices.Backward(b.files) {
		spared := b.journal != nil && b.journal.file == f
		for _, e := range f.messages {
			if e.samples == 0 && !e.settled && !newest[e.kind] {
				newest[e.kind], spared = true, true
			}
		}
		if !spared {
			found = f
		}
	}
	return found
}
