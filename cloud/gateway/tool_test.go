package gateway_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"io"
	"testing"
	"time"

	flynn "github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/config"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/session"
	"ecowatt/wire"
	"ecowatt/wire/record"
)

// use makes a gateway over another store.
func (c *cloud) use(s gateway.Store) {
	c.t.Helper()
	o := c.options()
	o.Store = s
	g, err := gateway.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.gateway = g
}

// failingStore commits nothing while err is set.
type failingStore struct {
	countingStore
	err error
}

func (s *failingStore) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Commit(ctx, unit)
}

// twiceStore tries every unit on nothing first, as when a group is tried again.
type twiceStore struct{ countingStore }

func (s *twiceStore) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	if err := unit(noTx{}); err != nil {
		return err
	}
	return s.Store.Commit(ctx, unit)
}

// noTx takes everything and keeps nothing.
type noTx struct{}

func (noTx) Raise(session.Claim) (session.Raised, error) {
	return session.Raised{Confirmed: true, Rollout: 2}, nil
}

func (noTx) Resume(session.Claim) (session.Raised, error)         { return session.Raised{}, nil }
func (noTx) Observe(int64, ingest.Clock, time.Time) error         { return nil }
func (noTx) Report(int64, registry.Report) (registry.News, error) { return registry.News{}, nil }
func (noTx) Append(audit.Record) error                            { return nil }
func (noTx) Alarm(a session.Alarm) (int64, error)                 { return a.Count, nil }
func (noTx) Overdue(time.Time) (session.Alarm, bool, error)       { return session.Alarm{}, false, nil }

func (noTx) PendingConfig(int64) (config.Update, bool, error) { return config.Update{}, false, nil }
func (noTx) ConfigSent(int64, uint64, time.Time) error        { return nil }
func (noTx) SettleConfig(int64, config.Answer, time.Time) (config.Settlement, error) {
	return config.Settlement{}, nil
}

func (noTx) StandingCommands(int64, time.Time) ([]command.Command, error) { return nil, nil }
func (noTx) SaveLease(int64, command.LeaseEvent, time.Time) error         { return nil }

func (noTx) Update(int64) (rollout.Update, bool, error) {
	return rollout.Update{Rollout: rollout.Rollout{State: rollout.Running}, Phase: rollout.Due}, true, nil
}
func (noTx) MoveUpdate(int64, rollout.Update, audit.Actor, time.Time) error { return nil }
func (noTx) NoteUpdate(int64, rollout.Update) error                         { return nil }
func (noTx) OfferedRelease(rollout.Hash) (rollout.Package, bool, error) {
	return rollout.Package{}, true, nil
}

func (noTx) Command(int64, command.ID) (command.Command, bool, error) {
	return command.Command{}, true, nil
}

func (noTx) SaveCommand(int64, command.Command, audit.Actor, time.Time) error { return nil }

func (noTx) Take(int64, ingest.Message, time.Time) (ingest.Status, error) {
	return ingest.Stored, nil
}

// sealPlain makes the next REQ of a plaintext that the package would not pad so.
func (d *device) sealPlain(plain []byte) request {
	d.t.Helper()
	d.seq++
	keys := d.Keys.Secret()
	aead, err := chacha20poly1305.New(keys[:32])
	if err != nil {
		d.t.Fatal(err)
	}
	header := wire.Record(wire.REQ, d.SID, d.seq).Append(nil)
	var nonce [12]byte
	binary.LittleEndian.PutUint64(nonce[4:], uint64(d.seq))
	msg := d.authenticate(aead.Seal(header, nonce[:], plain, header))
	return request{msg, d.seq, record.MAC(msg[len(msg)-32:]), d.Secrets}
}

// authenticate adds the HMAC of a REQ.
func (d *device) authenticate(msg []byte) []byte {
	keys := d.Keys.Secret()
	mac := hmac.New(sha256.New, keys[32:64])
	mac.Write(msg)
	return mac.Sum(msg)
}

// exec changes the database behind the cloud's back.
func (c *cloud) exec(tb testing.TB, query string, args ...any) {
	tb.Helper()
	db, err := sql.Open("sqlite3", "file:"+c.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		tb.Fatal(err)
	}
}

// lowOrderHS1 is an HS1 of the right key whose ephemeral key has low order.
func lowOrderHS1(t *testing.T, d *device) []byte {
	t.Helper()
	psk := d.key.NoisePSK(wire.Suite1)
	secret := psk.Secret()
	header := wire.Handshake(wire.HS1, d.id, d.epoch).Append(nil)
	state, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite: flynn.NewCipherSuite(zeroDH{}, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:     flynn.HandshakeNN, Initiator: true, Prologue: header, PresharedKey: secret[:], Random: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	hs1, _, _, err := state.WriteMessage(header, nil)
	if err != nil {
		t.Fatal(err)
	}
	return hs1
}

// zeroDH has the point of order 1 for its public key.
type zeroDH struct{ flynn.DHFunc }

func (zeroDH) GenerateKeypair(io.Reader) (flynn.DHKey, error) {
	return flynn.DHKey{Private: make([]byte, 32), Public: make([]byte, 32)}, nil
}
func (zeroDH) DHLen() int     { return 32 }
func (zeroDH) DHName() string { return "25519" }
