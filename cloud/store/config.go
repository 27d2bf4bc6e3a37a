package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

// updateHeads is what an update takes in an answer beside its parameters, whose
// JSON is never shorter than their CBOR, in bytes.
const updateHeads = 16

const (
	selectLayer   = `SELECT version, template, parameters, changed_at, changed_by FROM config_layer WHERE kind = $1 AND name = $2`
	selectDesired = `SELECT d.name, d.grp, d.cfg_revision, d.cfg_pending, d.cfg_drift, r.at, r.operator, r.cause, r.parameters, r.delivered_at, r.answered_at, r.outcome
	FROM device d LEFT JOIN config_revision r ON r.device = d.id AND r.revision = d.cfg_revision WHERE d.id = $1`
	selectReport   = `SELECT revision, at, parameters, former, outcome FROM config_report WHERE device = $1`
	selectRevision = `SELECT parameters, delivered_at, outcome FROM config_revision WHERE device = $1 AND revision = $2`
	selectUpdate   = `SELECT r.revision, r.parameters, r.delivered_at FROM device d JOIN config_revision r ON r.device = d.id AND r.revision = d.cfg_revision WHERE d.id = $1 AND d.cfg_pending > 0`
	// Whom a group or a template concerns; $4 is its name (see markDue).
	dueOfGroup      = `SELECT d.id FROM device d WHERE d.grp = $4 AND d.grp <> ''`
	dueOfTemplate   = `SELECT d.id FROM config_layer l JOIN device d ON d.name = l.name WHERE l.template = $4 AND l.template <> '' AND l.kind = 'device'`
	dueOfTemplateIn = `SELECT d.id FROM config_layer l JOIN device d ON d.grp = l.name AND d.grp <> '' WHERE l.template = $4 AND l.template <> '' AND l.kind = 'group'`
)

// layer reads a layer; one that was never written is its scope alone.
func (c *connection) layer(scope config.Scope) (config.Layer, error) {
	l := config.Layer{Scope: scope}
	if scope.Name == "" {
		return l, nil
	}
	var text string
	var at int64
	found, err := c.row(selectLayer, []any{string(scope.Kind), scope.Name}, &l.Version, &l.Template, &text, &at, &l.ChangedBy)
	if err == nil && found {
		l.ChangedAt = moment(at)
		l.Values, err = config.Decode(text)
	}
	if err != nil {
		return config.Layer{}, fmt.Errorf("reading what is set for %v: %w", scope, err)
	}
	return l, nil
}

// stack reads the layers of a device.
func (c *connection) stack(id ecowatt.DeviceID, group string) (config.Stack, error) {
	var s config.Stack
	for _, x := range []struct {
		layer, template *config.Layer
		scope           config.Scope
	}{
		{&s.Group, &s.GroupTemplate, config.Scope{Kind: config.OfGroup, Name: group}},
		{&s.Device, &s.DeviceTemplate, config.Scope{Kind: config.OfDevice, Name: string(id)}},
	} {
		var err error
		if *x.layer, err = c.layer(x.scope); err != nil {
			return config.Stack{}, err
		}
		if *x.template, err = c.layer(config.Scope{Kind: config.OfTemplate, Name: x.layer.Template}); err != nil {
			return config.Stack{}, err
		}
	}
	return s, nil
}

// desired reads the name and the group of a device and what is desired of it; its
// layers and its report are read by others. drift is the number that is kept.
func (c *connection) desired(device int64) (d config.Device, drift int64, err error) {
	var pending, revision, at, delivered, answered int64
	var text, outcome string
	found, err := c.row(selectDesired, []any{device}, (*string)(&d.ID), &d.Group, &revision, &pending, &drift, &at, &d.Desired.By, &d.Desired.Cause,
		&text, &delivered, &answered, &outcome)
	if err == nil && !found {
		err = errors.New("the device is gone")
	}
	d.Desired.Number, d.Pending, d.Desired.Values = uint64(revision), pending > 0, parameter.Values{}
	if err == nil && revision > 0 {
		d.Desired.At, d.Desired.DeliveredAt, d.Desired.AnsweredAt = moment(at), orZero(delivered), orZero(answered)
		d.Desired.Outcome, err = decodeOutcome(outcome)
		if err == nil {
			d.Desired.Values, err = config.Decode(text)
		}
	}
	if err != nil {
		return config.Device{}, 0, fmt.Errorf("reading what is desired of a device: %w", err)
	}
	return d, drift, nil
}

// reported reads what a device has said to be in force.
func (c *connection) reported(device int64) (config.Report, error) {
	r := config.Report{Values: parameter.Values{}}
	var revision, at int64
	var values, former, outcome string
	found, err := c.row(selectReport, []any{device}, &revision, &at, &values, &former, &outcome)
	if err == nil && found {
		r.Revision, r.At = uint64(revision), moment(at)
		if r.Values, err = config.Decode(values); err == nil {
			r.Former, err = config.Decode(former)
		}
		if err == nil {
			r.Outcome, err = decodeOutcome(outcome)
		}
	}
	if err != nil {
		return config.Report{}, fmt.Errorf("reading what a device has in force: %w", err)
	}
	return r, nil
}

// orZero is the time of a column that may be NULL.
func orZero(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return moment(ms)
}

func decodeOutcome(text string) (config.Outcome, error) {
	if text == "" {
		return nil, nil
	}
	var o config.Outcome
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return nil, fmt.Errorf("decoding an outcome: %w", err)
	}
	return o, nil
}

func encodeOutcome(o config.Outcome) (string, error) {
	if o == nil {
		o = config.Outcome{}
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("encoding an outcome: %w", err)
	}
	return string(text), nil
}

// cause is why what is desired of a device is worked out anew.
type cause struct {
	text string // "group north"
	by   audit.Actor
	at   time.Time
	// again makes a revision although nothing has changed: what the device did not
	// take is to be tried once more.
	again bool
}

// refreshConfig works out what is desired of a device, and makes a revision of it
// where that has changed.
func (tx *Tx) refreshConfig(device int64, why cause) (id ecowatt.DeviceID, changed bool, err error) {
	d, _, err := tx.w.desired(device)
	if err != nil {
		return "", false, err
	}
	stack, err := tx.w.stack(d.ID, d.Group)
	if err != nil {
		return "", false, err
	}
	values, _ := stack.Resolve()
	names := config.Differ(d.Desired.Values, values)
	if len(names) == 0 && !why.again {
		return d.ID, false, nil
	}
	if err := tx.revise(device, d.Desired.Number+1, values, why); err != nil {
		return "", false, err
	}
	number := strconv.FormatUint(d.Desired.Number+1, 10)
	attrs := map[string]string{"revision": number, "cause": why.text}
	for _, name := range names {
		attrs[name] = "not set"
		if v, ok := values[name]; ok {
			attrs[name] = clipped(parameter.Format(v))
		}
	}
	return d.ID, true, tx.Append(audit.Record{
		At: why.at, Actor: why.by, Device: d.ID, Action: "config.changed", Text: "configuration " + number + " is to be taken: " + why.text, Attrs: attrs,
	})
}

// clipped bounds what an audit record says of a value.
func clipped(text string) string {
	const most = 160
	if len(text) <= most {
		return text
	}
	return text[:most] + "…" // of ASCII, as all values are
}

// revise makes what is desired of a device a revision that is to be sent.
func (tx *Tx) revise(device int64, number uint64, values parameter.Values, why cause) error {
	text, err := config.Encode(values)
	if err != nil {
		return err
	}
	_, err = tx.w.exec(`INSERT INTO config_revision (device, revision, at, operator, cause, parameters) VALUES ($1, $2, $3, $4, $5, $6)`,
		device, int64(number), millis(why.at), why.by.Name, why.text, text)
	if err == nil {
		_, err = tx.w.exec(`UPDATE device SET cfg_revision = $1, cfg_pending = $2, cfg_drift = 0 WHERE id = $3`, int64(number), len(text)+updateHeads, device)
	}
	if err != nil {
		return fmt.Errorf("storing a revision of a configuration: %w", err)
	}
	return nil
}

// SetConfig changes a layer and writes the audit record "config.set". It returns
// the layer, and which devices have something new to be told: what is desired of
// them is worked out at once for the first ones, for the others by SpreadConfig.
// A layer that is not the one that was to be changed is a *config.ConflictError, a
// template that is not there config.ErrNoTemplate, a device registry.ErrNotFound.
func (s *Store) SetConfig(ctx context.Context, c config.Change) (set config.Layer, woken []ecowatt.DeviceID, err error) {
	err = s.write(ctx, func(tx *Tx) error {
		set, woken, err = tx.setConfig(c)
		return err
	})
	if err != nil {
		return config.Layer{}, nil, fmt.Errorf("setting the configuration of %v: %w", c.Scope, err)
	}
	return set, woken, nil
}

func (tx *Tx) setConfig(c config.Change) (config.Layer, []ecowatt.DeviceID, error) {
	device := int64(0)
	if c.Kind == config.OfDevice {
		var err error
		if device, err = tx.deviceRow(ecowatt.DeviceID(c.Name)); err != nil {
			return config.Layer{}, nil, err
		}
	}
	l, err := tx.w.layer(c.Scope)
	if err != nil {
		return config.Layer{}, nil, err
	}
	if c.If != nil && *c.If != l.Version {
		return config.Layer{}, nil, &config.ConflictError{Now: l}
	}
	attrs := map[string]string{"layer": c.String()}
	if c.Values != nil {
		for _, name := range config.Differ(l.Values, c.Values) {
			attrs[name] = "not set"
			if v, ok := c.Values[name]; ok {
				attrs[name] = clipped(parameter.Format(v))
			}
		}
		l.Values = c.Values
	}
	if c.Template != nil && *c.Template != l.Template {
		given, err := tx.w.layer(config.Scope{Kind: config.OfTemplate, Name: *c.Template})
		if err == nil && given.Version == 0 && *c.Template != "" {
			err = config.ErrNoTemplate
		}
		if err != nil {
			return config.Layer{}, nil, err
		}
		l.Template, attrs["template"] = *c.Template, *c.Template
	}
	why := cause{text: c.String(), by: audit.Actor{Kind: audit.Operator, Name: c.By}, at: c.At}
	if len(attrs) > 1 || l.Version == 0 {
		if l, err = tx.saveLayer(l, why, attrs); err != nil {
			return config.Layer{}, nil, err
		}
	}
	if c.Kind == config.OfDevice {
		woken, err := tx.refreshOne(device, why)
		return l, woken, err
	}
	if err := tx.markDue(c.Scope, why); err != nil {
		return config.Layer{}, nil, err
	}
	woken, _, err := tx.spread(spreadSize)
	return l, woken, err
}

// saveLayer stores a layer under its next version, with the audit record.
func (tx *Tx) saveLayer(l config.Layer, why cause, attrs map[string]string) (config.Layer, error) {
	text, err := config.Encode(l.Values)
	if err != nil {
		return config.Layer{}, err
	}
	l.Version, l.ChangedAt, l.ChangedBy = l.Version+1, moment(millis(why.at)), why.by.Name
	_, err = tx.w.exec(`INSERT INTO config_layer (kind, name, version, template, parameters, changed_at, changed_by) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, template = excluded.template, parameters = excluded.parameters,
			changed_at = excluded.changed_at, changed_by = excluded.changed_by`,
		string(l.Kind), l.Name, l.Version, l.Template, text, millis(why.at), l.ChangedBy)
	if err != nil {
		return config.Layer{}, fmt.Errorf("storing it: %w", err)
	}
	r := audit.Record{At: why.at, Actor: why.by, Action: "config.set", Text: "configuration of " + l.String() + " set", Attrs: attrs}
	if l.Kind == config.OfDevice {
		r.Device = ecowatt.DeviceID(l.Name)
	}
	return l, tx.Append(r)
}

// refreshOne works out what is desired of a device whose own layer was written:
// where it has drifted, that means to try again.
func (tx *Tx) refreshOne(device int64, why cause) ([]ecowatt.DeviceID, error) {
	_, drift, err := tx.w.desired(device)
	if err != nil {
		return nil, err
	}
	why.again = drift > 0
	id, changed, err := tx.refreshConfig(device, why)
	if err != nil || !changed {
		return nil, err
	}
	return []ecowatt.DeviceID{id}, nil
}

// markDue notes the devices that a group or a template concerns.
func (tx *Tx) markDue(scope config.Scope, why cause) error {
	queries := []string{dueOfGroup}
	if scope.Kind == config.OfTemplate {
		queries = []string{dueOfTemplate, dueOfTemplateIn}
	}
	for _, which := range queries {
		_, err := tx.w.exec(`INSERT INTO config_due (device, at, operator, cause) SELECT x.id, $1, $2, $3 FROM (`+which+`) AS x WHERE true
			ON CONFLICT (device) DO UPDATE SET at = excluded.at, operator = excluded.operator, cause = excluded.cause`,
			millis(why.at), why.by.Name, why.text, scope.Name)
		if err != nil {
			return fmt.Errorf("noting whom it concerns: %w", err)
		}
	}
	return nil
}

// spreadSize is for how many devices of a change what is desired is worked out in
// one transaction: a few ms, in which exchanges wait.
const spreadSize = 64

// SpreadConfig works out what is desired of some of the devices that a change of a
// group or a template concerns. It returns which have something new to be told,
// and whether there are more.
func (s *Store) SpreadConfig(ctx context.Context) (woken []ecowatt.DeviceID, more bool, err error) {
	var due bool
	if err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM config_due)`).Scan(&due); err != nil {
		return nil, false, fmt.Errorf("looking for changes of configurations: %w", unavailable(err))
	}
	if !due {
		return nil, false, nil
	}
	err = s.write(ctx, func(tx *Tx) (err error) {
		woken, more, err = tx.spread(spreadSize)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("spreading a configuration: %w", err)
	}
	return woken, more, nil
}

func (tx *Tx) spread(most int64) (woken []ecowatt.DeviceID, more bool, err error) {
	type one struct {
		device int64
		why    cause
	}
	var due []one
	err = tx.w.rows(`SELECT device, at, operator, cause FROM config_due ORDER BY device LIMIT $1`, []any{most}, func(st *sqlite3.Stmt) error {
		due = append(due, one{st.ColumnInt64(0), cause{
			at: moment(st.ColumnInt64(1)), by: audit.Actor{Kind: audit.Operator, Name: st.ColumnText(2)}, text: st.ColumnText(3),
		}})
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	for _, x := range due {
		id, changed, err := tx.refreshConfig(x.device, x.why)
		if err == nil {
			_, err = tx.w.exec(`DELETE FROM config_due WHERE device = $1`, x.device)
		}
		if err != nil {
			return nil, false, err
		}
		if changed {
			woken = append(woken, id)
		}
	}
	return woken, int64(len(due)) == most, nil
}
