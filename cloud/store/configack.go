package store

import (
	"fmt"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

// PendingConfig returns what a device is to be sent, and whether there is anything.
func (tx *Tx) PendingConfig(device int64) (config.Update, bool, error) {
	var revision, delivered int64
	var text string
	found, err := tx.w.row(selectUpdate, []any{device}, &revision, &text, &delivered)
	u := config.Update{Revision: uint64(revision), Sent: delivered != 0}
	if err == nil && found {
		u.Values, err = config.Decode(text)
	}
	if err != nil {
		return config.Update{}, false, fmt.Errorf("reading the configuration to be sent: %w", err)
	}
	return u, found, nil
}

// ConfigSent notes that a revision stands in an answer for the first time.
func (tx *Tx) ConfigSent(device int64, revision uint64, at time.Time) error {
	_, err := tx.w.exec(`UPDATE config_revision SET delivered_at = $1 WHERE device = $2 AND revision = $3 AND delivered_at IS NULL`,
		millis(at), device, int64(revision))
	if err != nil {
		return fmt.Errorf("noting that a configuration is sent: %w", err)
	}
	return nil
}

// SettleConfig makes of a device's answer what it means, and returns that.
func (tx *Tx) SettleConfig(device int64, a config.Answer, at time.Time) (config.Settlement, error) {
	x := settling{tx: tx, device: device, answer: a, at: at}
	if err := x.read(); err != nil {
		return config.Settlement{}, err
	}
	s := config.Settlement{Verdict: config.Judge(a, x.desired.Desired.Number, x.sent)}
	known := a.Revision == 0 || x.sent
	s.News = !known || x.report.Revision != a.Revision || !x.report.Outcome.Same(a.Outcome)
	next := x.report
	if known {
		next = x.report.After(a, x.values, at)
	} else if s.Verdict == config.Ahead { // what those values are is not known here
		next = config.Report{Revision: a.Revision, At: at, Outcome: a.Outcome}
	}
	if s.Verdict == config.Late && x.sent {
		s.News = x.outcome == nil || !x.outcome.Same(a.Outcome)
	}
	if !s.News {
		s.Slot = x.report.Slot()
		return s, nil
	}
	if err := x.save(next); err != nil {
		return config.Settlement{}, err
	}
	s.Slot = next.Slot()
	var err error
	s.Drift, err = x.conclude(s.Verdict, next)
	return s, err
}

// settling is an answer on its way to what it means.
type settling struct {
	tx     *Tx
	device int64
	answer config.Answer
	at     time.Time

	desired config.Device
	report  config.Report
	sent    bool             // the revision that is answered was sent from here
	values  parameter.Values // of it
	outcome config.Outcome   // that is known of it
}

func (x *settling) read() (err error) {
	w := x.tx.w
	if x.desired, _, err = w.desired(x.device); err != nil {
		return err
	}
	if x.report, err = w.reported(x.device); err != nil {
		return err
	}
	var text, outcome string
	var delivered int64
	found, err := w.row(selectRevision, []any{x.device, int64(x.answer.Revision)}, &text, &delivered, &outcome)
	if err == nil && found {
		x.sent = delivered != 0
		if x.values, err = config.Decode(text); err == nil {
			x.outcome, err = decodeOutcome(outcome)
		}
	}
	if err != nil {
		return fmt.Errorf("reading the revision that is answered: %w", err)
	}
	return nil
}

// save stores the answer with its revision, and what is in force by it.
func (x *settling) save(next config.Report) error {
	outcome, err := encodeOutcome(x.answer.Outcome)
	if err == nil && x.sent {
		_, err = x.tx.w.exec(`UPDATE config_revision SET answered_at = $1, outcome = $2 WHERE device = $3 AND revision = $4`,
			millis(x.at), outcome, x.device, int64(x.answer.Revision))
	}
	var values, former, last string
	if err == nil {
		values, err = config.Encode(next.Values)
	}
	if err == nil {
		former, err = config.Encode(next.Former)
	}
	if err == nil {
		last, err = encodeOutcome(next.Outcome)
	}
	if err == nil {
		_, err = x.tx.w.exec(`INSERT INTO config_report (device, revision, at, parameters, former, outcome) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (device) DO UPDATE SET revision = excluded.revision, at = excluded.at, parameters = excluded.parameters,
				former = excluded.former, outcome = excluded.outcome`,
			x.device, int64(next.Revision), millis(next.At), values, former, last)
	}
	if err != nil {
		return fmt.Errorf("storing what a device has in force: %w", err)
	}
	return nil
}

// conclude makes the device's row follow, and returns what has drifted.
func (x *settling) conclude(v config.Verdict, next config.Report) (drift []string, err error) {
	w := x.tx.w
	switch v {
	case config.Settled:
		drift = config.Differ(x.desired.Desired.Values, next.Values)
		_, err = w.exec(`UPDATE device SET cfg_pending = 0, cfg_drift = $1, cfg_slot = $2 WHERE id = $3`, len(drift), seconds(next.Slot()), x.device)
	case config.Late:
		_, err = w.exec(`UPDATE device SET cfg_slot = $1 WHERE id = $2`, seconds(next.Slot()), x.device)
	case config.Lost:
		_, err = w.exec(`UPDATE device SET cfg_pending = (SELECT length(r.parameters) + $1 FROM config_revision r WHERE r.device = $2 AND r.revision = cfg_revision),
			cfg_drift = 0, cfg_slot = 0 WHERE id = $2`, updateHeads, x.device)
	case config.Ahead:
		err = x.tx.revise(x.device, x.answer.Revision+1, x.desired.Desired.Values, cause{
			text: fmt.Sprintf("the device has revision %d", x.answer.Revision), by: audit.Actor{Kind: audit.System, Name: "configuration"}, at: x.at,
		})
		if err == nil {
			_, err = w.exec(`UPDATE device SET cfg_slot = 0 WHERE id = $1`, x.device)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("settling a configuration: %w", err)
	}
	return drift, nil
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
