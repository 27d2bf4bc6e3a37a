package model

import (
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// view is what there is in the database of the cloud.
type view struct {
	sessions  map[wire.SessionID]sessionRow
	keys      keyStates
	active    key.Epoch
	offerFrom time.Time              // of the pending key; zero for none
	window    time.Time              // until when the device may recover; zero for never
	waiting   map[[32]byte]time.Time // hashes of the HS1 whose sessions wait, and how long they do
	effects   map[string]int         // how often each was seen
	ids       map[wire.MessageID]bool
	clones    int    // how often it is told that sessions were replaced too often
	alarms    string // what the audit log tells of and an honest device never causes
}

// sessionRow is a session.
type sessionRow struct {
	handshake int64
	active    bool
	last      wire.Sequence
	epoch     key.Epoch
	recovery  bool
	expires   time.Time
}

// observer looks into a database from outside.
type observer struct {
	w       *world
	conn    *sqlite3.Conn
	queries map[string]*sqlite3.Stmt
	version int64
	last    view
}

func observe(w *world, path string) *observer {
	conn, err := sqlite3.Open("file:" + path)
	w.must(err)
	w.must(conn.Exec(`PRAGMA query_only = ON`))
	return &observer{w: w, conn: conn, queries: map[string]*sqlite3.Stmt{}}
}

func (o *observer) close() {
	for _, st := range o.queries {
		o.w.must(st.Close())
	}
	o.w.must(o.conn.Close())
}

// each runs a query and reads its rows.
func (o *observer) each(query string, read func(*sqlite3.Stmt)) {
	st := o.queries[query]
	if st == nil {
		var err error
		st, _, err = o.conn.Prepare(query)
		o.w.must(err)
		o.queries[query] = st
	}
	for st.Step() {
		read(st)
	}
	o.w.must(st.Reset())
}

// look returns what is there now.
func (w *world) look() view {
	o := w.observer
	before := o.version
	o.each(`PRAGMA data_version`, func(st *sqlite3.Stmt) { o.version = st.ColumnInt64(0) })
	if o.version != before {
		o.last = o.read()
	}
	return o.last
}

func (o *observer) read() view {
	v := view{
		sessions: map[wire.SessionID]sessionRow{}, waiting: map[[32]byte]time.Time{}, keys: keyStates{}, effects: map[string]int{}, ids: map[wire.MessageID]bool{},
	}
	o.each(`SELECT sid, hs_no, state = 'active', last_seq, epoch, recovery, expires_at FROM session`, func(st *sqlite3.Stmt) {
		v.sessions[wire.SessionID(st.ColumnBlob(0, nil))] = sessionRow{
			handshake: st.ColumnInt64(1), active: st.ColumnBool(2), last: wire.Sequence(st.ColumnInt64(3)),
			epoch: key.Epoch(st.ColumnInt64(4)), recovery: st.ColumnBool(5), expires: time.UnixMilli(st.ColumnInt64(6)),
		}
	})
	o.each(`SELECT hs1_hash, expires_at FROM session WHERE state = 'pending'`, func(st *sqlite3.Stmt) {
		v.waiting[[32]byte(st.ColumnBlob(0, nil))] = time.UnixMilli(st.ColumnInt64(1))
	})
	o.each(`SELECT coalesce(recovery_until, 0) FROM device`, func(st *sqlite3.Stmt) {
		if until := st.ColumnInt64(0); until > 0 {
			v.window = time.UnixMilli(until)
		}
	})
	o.each(`SELECT psk_id, state, epoch, offer_from FROM device_key`, func(st *sqlite3.Stmt) {
		state := session.KeyState(st.ColumnText(1))
		v.keys[key.ID(st.ColumnBlob(0, nil))] = state
		switch state {
		case session.KeyActive:
			v.active = key.Epoch(st.ColumnInt64(2))
		case session.KeyPending:
			v.offerFrom = time.UnixMilli(st.ColumnInt64(3))
		case session.KeyRecovery, session.KeyRetired:
		}
	})
	o.each(`SELECT inverter, count(*) FROM block GROUP BY 1 UNION ALL SELECT text, count(*) FROM audit WHERE action = 'device.log' GROUP BY 1`,
		func(st *sqlite3.Stmt) { v.effects[st.ColumnText(0)] += st.ColumnInt(1) })
	o.each(`SELECT msg_id FROM message`, func(st *sqlite3.Stmt) { v.ids[wire.MessageID(st.ColumnBlob(0, nil))] = true })
	o.each(`SELECT action || ': ' || text FROM audit WHERE action IN ('request.not_understood', 'message.invalid', 'message.conflict')
		OR attrs ->> 'sign' = 'boot_returned'
		UNION ALL SELECT 'a session with a key that was replaced' FROM session s JOIN device_key k USING (device, epoch)
			WHERE k.state = 'retired' OR k.state = 'recovery' AND s.recovery = 0
		UNION ALL SELECT 'a key that was to be burnt' FROM device_key WHERE state <> 'retired'
			AND epoch < (SELECT max(attrs ->> 'epoch' + 0) FROM audit WHERE attrs ->> 'reason' = 'ROT_BURN') LIMIT 1`,
		func(st *sqlite3.Stmt) { v.alarms = st.ColumnText(0) })
	o.each(`SELECT count(*) FROM audit WHERE attrs ->> 'sign' = 'often_replaced'`, func(st *sqlite3.Stmt) { v.clones = st.ColumnInt(0) })
	return v
}
