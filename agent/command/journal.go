package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"ecowatt/internal/disk"
)

// JournalFile is the name of the journal in the gateway's folder: one record as
// disk.AppendRecord writes it, which is JSON. It is replaced as a whole, so that
// after a power cut it is what it was or what it became.
const JournalFile = "commands.journal"

const (
	journalFormat = 1
	journalMode   = fs.FileMode(0o600)
	maxJournal    = disk.MaxRecord

	maxSettled = 64  // entries that the cloud has taken; older ones go
	maxEntries = 256 // in all; no command is begun beyond
	maxLeases  = 32  // on one point
)

// journal is what must outlive the agent.
type journal struct {
	Format  int      `json:"format"`
	Last    uint64   `json:"last"`             // sequence of the latest command that was begun or answered
	Lost    bool     `json:"lost"`             // an earlier journal was, and with it what was done
	Entries []entry  `json:"entries"`          // what became of commands, oldest first
	Intent  *intent  `json:"intent,omitempty"` // the command that is under way
	Limits  []limit  `json:"limits"`
	Writes  []writes `json:"writes"`
}

// entry is a command that has ended.
type entry struct {
	Result
	Told    bool `json:"told"`    // it is in the outbox, or was
	Settled bool `json:"settled"` // the cloud has it
}

// intent says what a command is about to do. It stands in the journal before the
// first write, and until the outcome does.
type intent struct {
	ID       ID       `json:"id"`
	Action   string   `json:"action"`
	Inverter string   `json:"inverter"`
	Point    string   `json:"point"`
	Found    standing `json:"found"`
	To       standing `json:"to"`
	At       int64    `json:"at"` // ms since 1970
}

// writes counts those to a register on one day.
type writes struct {
	Inverter string `json:"inverter"`
	Point    string `json:"point"`
	Day      int64  `json:"day"` // since 1970
	Count    int    `json:"count"`
}

// errNotJournal says that a file is no journal of this format.
var errNotJournal = errors.New("it is damaged, or of another version")

// readJournal reads what is on the disk; an empty journal where there is none.
// The error wraps errNotJournal where what is there cannot be made sense of.
func readJournal(fsys disk.FS) (journal, error) {
	empty := journal{Format: journalFormat}
	data, err := disk.ReadFile(fsys, JournalFile, maxJournal+64)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if errors.Is(err, disk.ErrTooLarge) {
		return empty, fmt.Errorf("%s: %w", JournalFile, errNotJournal)
	}
	if err != nil {
		return empty, err
	}
	var read *journal
	_, err = disk.ReadRecords(bytes.NewReader(data), func(record []byte) error {
		read = &journal{}
		return json.Unmarshal(record, read)
	})
	if err != nil || read == nil || read.Format != journalFormat {
		return empty, fmt.Errorf("%s: %w", JournalFile, errNotJournal)
	}
	return *read, nil
}

// save makes the journal last, as it is at now.
func (j *journal) save(fsys disk.FS, now Moment) error {
	j.compact()
	for i := range j.Limits {
		for k, l := range j.Limits[i].Leases {
			j.Limits[i].Leases[k] = l.at(now)
		}
	}
	data, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encoding the journal of commands: %w", err)
	}
	if len(data) > disk.MaxRecord {
		return fmt.Errorf("the journal of commands has %d bytes: at most %d are kept", len(data), disk.MaxRecord)
	}
	return disk.WriteFile(fsys, JournalFile, disk.AppendRecord(nil, data), journalMode)
}

// compact lets go of the oldest entries that the cloud has taken.
func (j *journal) compact() {
	settled := 0
	for i, x := range slices.Backward(j.Entries) {
		if !x.Settled {
			continue
		}
		if settled++; settled > maxSettled {
			j.Entries = slices.Delete(j.Entries, i, i+1)
		}
	}
}

// clone is a copy that shares nothing that changes.
func (j *journal) clone() journal {
	c := *j
	c.Entries, c.Limits, c.Writes = slices.Clone(j.Entries), cloneLimits(j.Limits), slices.Clone(j.Writes)
	if j.Intent != nil {
		i := *j.Intent
		c.Intent = &i
	}
	return c
}

// cloneLimits is a copy whose leases may be changed.
func cloneLimits(limits []limit) []limit {
	c := slices.Clone(limits)
	for i := range c {
		c[i].Leases = slices.Clone(c[i].Leases)
	}
	return c
}

// entry is the one of a command; nil for none.
func (j *journal) entry(id ID) *entry {
	i := slices.IndexFunc(j.Entries, func(e entry) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &j.Entries[i]
}

// limit is the one on a point; nil for none.
func (j *journal) limit(inverter, point string) *limit {
	i := slices.IndexFunc(j.Limits, func(l limit) bool { return l.Inverter == inverter && l.Point == point })
	if i < 0 {
		return nil
	}
	return &j.Limits[i]
}

// put keeps l in place of what there is on its point.
func (j *journal) put(l limit) {
	if at := j.limit(l.Inverter, l.Point); at != nil {
		*at = l
		return
	}
	j.Limits = append(j.Limits, l)
}

// drop takes the limit off a point.
func (j *journal) drop(inverter, point string) {
	j.Limits = slices.DeleteFunc(j.Limits, func(l limit) bool { return l.Inverter == inverter && l.Point == point })
}

const dayLength = 24 * time.Hour

// today counts the writes to a point on the day of now. While the time is not
// known no new day begins.
func (j *journal) today(inverter, point string, now Moment) *writes {
	i := slices.IndexFunc(j.Writes, func(w writes) bool { return w.Inverter == inverter && w.Point == point })
	if i < 0 {
		j.Writes = append(j.Writes, writes{Inverter: inverter, Point: point})
		i = len(j.Writes) - 1
	}
	w := &j.Writes[i]
	if day := int64(now.Wall / dayLength); now.Known && day != w.Day {
		w.Day, w.Count = day, 0
	}
	return w
}
