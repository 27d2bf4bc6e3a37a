package store

import (
	"fmt"
	"math"
)

// everySession is a number beyond those of all handshakes.
const everySession = math.MaxInt64

// endSessions deletes the sessions of a device that came from handshakes with
// a smaller number than below, their keys with them, and returns how many that
// were. When the device was last seen stays known.
func (tx *Tx) endSessions(device, below int64) (int64, error) {
	_, err := tx.w.exec(`UPDATE device SET last_seen = (SELECT max(s.seen_at) FROM session s WHERE s.device = $1 AND s.hs_no < $2)
		WHERE id = $1 AND coalesce(last_seen, 0) < (SELECT max(s.seen_at) FROM session s WHERE s.device = $1 AND s.hs_no < $2)`,
		device, below)
	if err != nil {
		return 0, fmt.Errorf("noting when a device was last seen: %w", err)
	}
	n, err := tx.w.exec(`DELETE FROM session WHERE device = $1 AND hs_no < $2`, device, below)
	if err != nil {
		return 0, fmt.Errorf("ending sessions: %w", err)
	}
	return n, nil
}
