package store

import (
	"context"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/config"
)

// How far devices are with their configuration; $1 is the name of the group or the
// template.
const (
	membersOfGroup    = `d.grp = $1 AND d.grp <> ''`
	membersOfTemplate = `d.id IN (
		SELECT a.id FROM config_layer l JOIN device a ON a.name = l.name WHERE l.template = $1 AND l.template <> '' AND l.kind = 'device'
		UNION ALL SELECT b.id FROM config_layer l JOIN device b ON b.grp = l.name AND b.grp <> '' WHERE l.template = $1 AND l.template <> '' AND l.kind = 'group')`

	memberState = `CASE WHEN d.disabled = 1 THEN 'disabled'
		WHEN d.cfg_pending > 0 OR EXISTS (SELECT 1 FROM config_due x WHERE x.device = d.id) THEN 'pending'
		WHEN d.cfg_drift > 0 THEN 'drifted' ELSE 'in_force' END`

	selectMembers = `SELECT d.name, ` + memberState + `, d.cfg_revision, r.delivered_at, r.answered_at, r.outcome
		FROM device d LEFT JOIN config_revision r ON r.device = d.id AND r.revision = d.cfg_revision WHERE `
	pageOfMembers = ` AND d.name > $2 ORDER BY d.name LIMIT $3`
	countMembers  = `SELECT ` + memberState + `, count(*) FROM device d WHERE `
	byState       = ` GROUP BY 1`
)

// membersOf selects whom a group or a template concerns.
func membersOf(kind config.Kind) string {
	if kind == config.OfTemplate {
		return membersOfTemplate
	}
	return membersOfGroup
}

// ConfigProgress returns how far the devices are that a group or a template
// concerns: how many are in each state, and those after a device, at most so many. A
// template that is not there is config.ErrNoTemplate.
func (s *Store) ConfigProgress(ctx context.Context, scope config.Scope, after ecowatt.DeviceID, most int) (config.Progress, error) {
	p := config.Progress{Counts: map[config.State]int{}}
	err := s.look(ctx, func(c *connection) error {
		if scope.Kind == config.OfTemplate {
			l, err := c.layer(scope)
			if err == nil && l.Version == 0 {
				err = config.ErrNoTemplate
			}
			if err != nil {
				return err
			}
		}
		who := membersOf(scope.Kind)
		err := c.rows(countMembers+who+byState, []any{scope.Name}, func(st *sqlite3.Stmt) error {
			p.Counts[config.State(st.ColumnText(0))] = st.ColumnInt(1)
			return nil
		})
		if err != nil {
			return err
		}
		return c.rows(selectMembers+who+pageOfMembers, []any{scope.Name, string(after), most}, func(st *sqlite3.Stmt) error {
			m := config.Member{
				ID: ecowatt.DeviceID(st.ColumnText(0)), State: config.State(st.ColumnText(1)), Revision: uint64(st.ColumnInt64(2)),
				DeliveredAt: orZero(st.ColumnInt64(3)), AnsweredAt: orZero(st.ColumnInt64(4)),
			}
			var err error
			m.Outcome, err = decodeOutcome(st.ColumnText(5))
			p.Members = append(p.Members, m)
			return err
		})
	})
	if err != nil {
		return config.Progress{}, fmt.Errorf("reading how far the configuration of %v is: %w", scope, err)
	}
	return p, nil
}
