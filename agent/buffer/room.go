package buffer

import "slices"

// makeRoom gives up the oldest files while all of them take more of the disk
// than they may: the newest data are worth more, and none are refused. It spares
// the journal in use and, of each kind of message that was put, the newest: the
// cloud would not understand the samples without the inventory.
func (b *Buffer) makeRoom() {
	for b.size() > b.limit {
		f := b.oldest()
		if f == nil {
			return
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
			return
		}
	}
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
