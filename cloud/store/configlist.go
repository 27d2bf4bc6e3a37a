package store

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/cloud/registry"
)

const (
	selectTemplates = `SELECT name FROM config_layer WHERE kind = 'template' ORDER BY name`
	selectGiven     = `SELECT kind, name FROM config_layer WHERE template = $1 AND template <> '' ORDER BY kind, name LIMIT $2`
	selectRevisions = `SELECT revision, at, operator, cause, parameters, delivered_at, answered_at, outcome FROM config_revision
		WHERE device = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3`
	selectConfigCounts = `SELECT (SELECT count(*) FROM device WHERE cfg_pending > 0), (SELECT count(*) FROM device WHERE cfg_drift > 0)`
)

// look lets read see one moment of the database.
func (s *Store) look(ctx context.Context, read func(*connection) error) (err error) {
	c, err := s.lookups.take(ctx)
	if err != nil {
		return err
	}
	defer func() { s.lookups.free <- c }()
	if _, err := c.exec(`BEGIN`); err != nil {
		return unavailable(err)
	}
	defer func() {
		if _, end := c.exec(`ROLLBACK`); err == nil {
			err = end
		}
		err = unavailable(err)
	}()
	return read(c)
}

// deviceRow returns the number of the row of a device, or registry.ErrNotFound.
func (c *connection) deviceRow(id ecowatt.DeviceID) (device int64, err error) {
	found, err := c.row(`SELECT id FROM device WHERE name = $1`, []any{string(id)}, &device)
	if err == nil && !found {
		err = registry.ErrNotFound
	}
	return device, err
}

// DeviceConfig returns all that is known of the configuration of a device, or
// registry.ErrNotFound.
func (s *Store) DeviceConfig(ctx context.Context, id ecowatt.DeviceID) (config.Device, error) {
	var d config.Device
	err := s.look(ctx, func(c *connection) error {
		device, err := c.deviceRow(id)
		if err != nil {
			return err
		}
		if d, _, err = c.desired(device); err != nil {
			return err
		}
		if d.Report, err = c.reported(device); err != nil {
			return err
		}
		stack, err := c.stack(d.ID, d.Group)
		d.Own = stack.Device
		_, d.From = stack.Resolve()
		return err
	})
	if err != nil {
		return config.Device{}, fmt.Errorf("reading the configuration of device %s: %w", id, err)
	}
	return d, nil
}

// ConfigLayer returns what is set for a scope: of a device that is not there
// registry.ErrNotFound, of a template config.ErrNoTemplate. Of a group for which
// nothing was ever set it is empty.
func (s *Store) ConfigLayer(ctx context.Context, scope config.Scope) (config.Layer, error) {
	var l config.Layer
	err := s.look(ctx, func(c *connection) (err error) {
		if scope.Kind == config.OfDevice {
			if _, err := c.deviceRow(ecowatt.DeviceID(scope.Name)); err != nil {
				return err
			}
		}
		if l, err = c.layer(scope); err == nil && scope.Kind == config.OfTemplate && l.Version == 0 {
			err = config.ErrNoTemplate
		}
		return err
	})
	if err != nil {
		return config.Layer{}, fmt.Errorf("reading what is set for %v: %w", scope, err)
	}
	return l, nil
}

// maxGiven is how many of those that a template is given to are listed.
const maxGiven = 1000

// ConfigTemplates returns every template, by name, and whom each is given to.
func (s *Store) ConfigTemplates(ctx context.Context) ([]config.Template, error) {
	var list []config.Template
	err := s.look(ctx, func(c *connection) error {
		var names []string
		err := c.rows(selectTemplates, nil, func(st *sqlite3.Stmt) error {
			names = append(names, st.ColumnText(0))
			return nil
		})
		for _, name := range names {
			if err != nil {
				return err
			}
			var t config.Template
			if t.Layer, err = c.layer(config.Scope{Kind: config.OfTemplate, Name: name}); err == nil {
				t.Given, err = c.given(name, maxGiven)
			}
			list = append(list, t)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the templates: %w", err)
	}
	return list, nil
}

// given lists whom a template is given to.
func (c *connection) given(name string, most int64) (list []config.Scope, err error) {
	err = c.rows(selectGiven, []any{name, most}, func(st *sqlite3.Stmt) error {
		list = append(list, config.Scope{Kind: config.Kind(st.ColumnText(0)), Name: st.ColumnText(1)})
		return nil
	})
	return list, err
}

// DeleteConfigTemplate deletes a template that is given to nobody, and writes the
// audit record "config.deleted". One that is given to somebody is a
// *config.InUseError, one that is not there config.ErrNoTemplate.
func (s *Store) DeleteConfigTemplate(ctx context.Context, name string, by audit.Actor, now time.Time) error {
	err := s.write(ctx, func(tx *Tx) error {
		given, err := tx.w.given(name, 1)
		if err != nil {
			return err
		}
		if len(given) > 0 {
			return &config.InUseError{Name: name, By: given[0]}
		}
		n, err := tx.w.exec(`DELETE FROM config_layer WHERE kind = 'template' AND name = $1`, name)
		if err == nil && n == 0 {
			err = config.ErrNoTemplate
		}
		if err != nil {
			return err
		}
		scope := config.Scope{Kind: config.OfTemplate, Name: name}
		return tx.Append(audit.Record{
			At: now, Actor: by, Action: "config.deleted", Text: scope.String() + " deleted", Attrs: map[string]string{"layer": scope.String()},
		})
	})
	if err != nil {
		return fmt.Errorf("deleting template %s: %w", name, err)
	}
	return nil
}

// ConfigLog returns the revisions of a device, newest first, at most so many: all,
// or those before a revision. A device that is not there is registry.ErrNotFound.
func (s *Store) ConfigLog(ctx context.Context, id ecowatt.DeviceID, before uint64, most int) ([]config.Entry, error) {
	if before == 0 {
		before = config.MaxRevision + 1
	}
	var list []config.Entry
	err := s.look(ctx, func(c *connection) error {
		device, err := c.deviceRow(id)
		if err != nil {
			return err
		}
		// One more than asked for is what the last one is compared with.
		err = c.rows(selectRevisions, []any{device, int64(before), most + 1}, func(st *sqlite3.Stmt) error {
			r := config.Revision{
				Number: uint64(st.ColumnInt64(0)), At: moment(st.ColumnInt64(1)), By: st.ColumnText(2), Cause: st.ColumnText(3),
				DeliveredAt: orZero(st.ColumnInt64(5)), AnsweredAt: orZero(st.ColumnInt64(6)),
			}
			var err error
			if r.Values, err = config.Decode(st.ColumnText(4)); err == nil {
				r.Outcome, err = decodeOutcome(st.ColumnText(7))
			}
			list = append(list, config.Entry{Revision: r})
			return err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the changes of the configuration of device %s: %w", id, err)
	}
	for i := range list {
		earlier := config.Revision{}
		if i+1 < len(list) {
			earlier = list[i+1].Revision
		}
		list[i].Changed = config.Differ(earlier.Values, list[i].Values)
	}
	return list[:min(len(list), most)], nil
}

// ConfigCounts returns how many devices have not answered what is desired of them,
// and how many have answered and do not have it.
func (s *Store) ConfigCounts(ctx context.Context) (pending, drifted uint64, err error) {
	err = s.read.QueryRowContext(ctx, selectConfigCounts).Scan(&pending, &drifted)
	if err != nil {
		return 0, 0, fmt.Errorf("counting configurations: %w", unavailable(err))
	}
	return pending, drifted, nil
}
