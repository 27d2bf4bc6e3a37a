package store

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
)

// plan is how SQLite goes about a query, a step in each line.
func plan(t *testing.T, s *Store, query string, args ...any) string {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(steps, "\n")
}

// TestPlans: every query that runs over tables that grow finds its rows by an
// index, in the order in which they are wanted.
func TestPlans(t *testing.T) {
	s := open(t)
	byDevice, byDeviceArgs := auditQuery(audit.Filter{Device: "roof", After: 1})
	lastOf, lastOfArgs := auditQuery(audit.Filter{Device: "roof", Last: 10})
	last, lastArgs := auditQuery(audit.Filter{Last: 10})
	security, securityArgs := auditQuery(audit.Filter{Security: true, Last: 10})
	securityOf, securityOfArgs := auditQuery(audit.Filter{Security: true, Device: "roof", Last: 10})
	none := make([]any, 16)
	for name, c := range map[string]struct {
		query string
		args  []any
		steps []string // must be there
	}{
		"the fleet":               {allDevices, none[:2], []string{"SEARCH u USING INDEX rollout_device_watched (device=?) LEFT-JOIN"}},
		"blocks":                  {selectBlocks, none[:9], []string{"SEARCH block USING INDEX block_time (device=? AND inverter=? AND t0>? AND t0<?)"}},
		"inverters":               {selectInverter, none[:2], []string{"SEARCH block USING COVERING INDEX block_time (device=? AND inverter>?)"}},
		"rolled up":               {selectRolledUp, none[:2], []string{"SEARCH rollup USING COVERING INDEX rollup_place (device=? AND inverter>?)"}},
		"known":                   {selectKnown, none[:4], []string{"SEARCH rollup USING INDEX rollup_place (device=? AND inverter=? AND start>? AND start<?)", "SEARCH b USING COVERING INDEX rollup_place (device=? AND inverter=? AND start<?)"}},
		"quarters":                {selectQuarters, none[:7], []string{"SEARCH rollup USING INDEX rollup_place (device=? AND inverter=? AND start>? AND start<?)"}},
		"series":                  {selectSeries, none[:7], []string{"SEARCH rollup USING INDEX rollup_place (device=? AND inverter=? AND start>? AND start<?)"}},
		"minutes":                 {selectMinutes, none[:9], []string{"SEARCH block USING INDEX block_time (device=? AND inverter=? AND t0>? AND t0<?)"}},
		"a chunk":                 {oneChunk, none[:4], []string{"SEARCH rollup USING INDEX rollup_place (device=? AND inverter=? AND start=? AND points=?)"}},
		"blocks of a chunk":       {blocksOfChunk, none[:6], []string{"SEARCH block USING INDEX block_time (device=? AND inverter=? AND t0>? AND t0<?)"}},
		"old samples":             {oldSamples, none[:5], []string{"SEARCH block USING INDEX block_time (device=? AND inverter=? AND t0>? AND t0<?)"}},
		"old blocks":              {oldBlocks, none[:5], []string{"SEARCH block USING COVERING INDEX block_time (device=? AND inverter=? AND t0>? AND t0<?)"}},
		"next owner":              {nextOwner, none[:2], []string{"SEARCH block USING COVERING INDEX block_time ((device,inverter)>(?,?))"}},
		"device":                  {oneDevice, none[:1], []string{"SEARCH d USING INDEX sqlite_autoindex_device_1 (name=?)"}},
		"devices":                 {allDevices, none[:2], []string{"SEARCH d USING INDEX sqlite_autoindex_device_1 (name>?)"}},
		"devices, group":          {groupDevices, none[:3], []string{"SEARCH d USING INDEX device_grp (grp=? AND name>?)"}},
		"audit by device":         {byDevice, byDeviceArgs, []string{"SEARCH audit USING INDEX audit_device (device=? AND n>?)"}},
		"audit, last of":          {lastOf, lastOfArgs, []string{"SEARCH audit USING INDEX audit_device (device=? AND n>?)"}},
		"audit, last security":    {security, securityArgs, []string{"SEARCH audit USING INDEX audit_security (n>?)"}},
		"audit, last security of": {securityOf, securityOfArgs, []string{"SEARCH audit USING INDEX audit_device_security (device=? AND n>?)"}},
		"audit, last":             {last, lastArgs, []string{"SEARCH audit USING INTEGER PRIMARY KEY (rowid>?)"}},
		"key":                     {selectKey, none[:1], []string{"SEARCH k USING INDEX sqlite_autoindex_device_key_1 (psk_id=?)"}},
		"alarms":                  {selectOverdue, none[:1], []string{"SEARCH a USING INDEX alarm_untold (told_at<?)"}},
		"past":                    {selectPast, none[:3], []string{"SEARCH k USING INDEX sqlite_autoindex_device_key_1 (psk_id=?)"}},
		// What an exchange costs where no rotation is pending: one step in an index
		// that is empty.
		"session": {selectSession, none[:1], []string{
			"SEARCH s USING INDEX sqlite_autoindex_session_1 (sid=?)\nSEARCH d USING INTEGER PRIMARY KEY (rowid=?)\n" +
				"SEARCH n USING INDEX device_key_pending (device=?) LEFT-JOIN",
		}},
		"commands that stand": {standingCommands, none[:3], []string{"SEARCH c USING INDEX command_open (device=?)"}},
		"commands due":        {dueCommands, none[:2], []string{"SEARCH c USING INDEX command_due (due_at<?)"}},
		"commands":            {listCommands, none[:3], []string{"SEARCH c USING INDEX sqlite_autoindex_command_2 (device=? AND seq<?)"}},
		"commands in a state": {listCommandsIn, none[:4], []string{"SEARCH c USING INDEX command_by_state (device=? AND state=? AND seq<?)"}},
		"commands of orders":  {commandsOfOrder, none[:1], []string{"SEARCH c USING INDEX command_by_order (order_id=?)"}},
		"command by key":      {keyOfDevice, none[:3], []string{"SEARCH c USING INDEX command_key (device=? AND operator=? AND client_key=?)"}},
		"order by key":        {orderByKey, none[:3], []string{"SEARCH command_order USING INDEX command_order_key (grp=? AND operator=? AND client_key=?)"}},
		"power limits":        {selectLeases, none[:1], []string{"SEARCH l USING PRIMARY KEY (device=?)"}},
		"commands counted":    {countCommands, nil, []string{"SCAN command USING COVERING INDEX command_state"}},
		"update of a device":  {watchedUpdate, none[:1], []string{"SEARCH u USING INDEX rollout_device_watched (device=?)"}},
		"updates due":         {dueUpdates, none[:3], []string{"SEARCH u USING INDEX rollout_device_due (rollout=? AND due_at<?)"}},
		"updates waiting":     {waitingUpdates, none[:3], []string{"SEARCH u USING INDEX rollout_device_phase (rollout=? AND stage=? AND phase=?)"}},
		"updates aborted":     {abortedUpdates, none[:4], []string{"SEARCH u USING INDEX rollout_device_phase (rollout=? AND stage=?)"}},
		"updates":             {listUpdates, none[:3], []string{"SEARCH u USING PRIMARY KEY (rollout=? AND device>?)"}},
		"updates in a phase":  {listUpdatesIn, none[:4], []string{"SEARCH u USING PRIMARY KEY (rollout=? AND device>?)"}},
		"a stage":             {tallyStage, none[:2], []string{"SEARCH rollout_device USING COVERING INDEX rollout_device_phase (rollout=? AND stage=?)"}},
		"stages":              {tallyRollout, none[:1], []string{"SEARCH rollout_device USING COVERING INDEX rollout_device_phase (rollout=?)"}},
		"updates of late":     {recentUpdates, none[:2], []string{"SEARCH rollout_device USING INDEX rollout_device_ended (rollout=? AND ended_at>?)"}},
		"open rollouts":       {openRollouts, nil, []string{"SCAN rollout USING COVERING INDEX rollout_open"}},
		"keys of one":         {keysOfOne, none[:1], []string{"SEARCH d USING COVERING INDEX sqlite_autoindex_device_1 (name=?)"}},
		"keys of all":         {keysOfAll, none[:2], []string{"SEARCH d USING COVERING INDEX sqlite_autoindex_device_1 (name>?)"}},
		"keys of group":       {keysOfGroup, none[:3], []string{"SEARCH d USING COVERING INDEX device_grp (grp=? AND name>?)"}},
	} {
		got := plan(t, s, c.query, c.args...)
		for _, step := range c.steps {
			if !strings.Contains(got, step) {
				t.Errorf("%s: the plan lacks %q:\n%s", name, step, got)
			}
		}
		for _, table := range []string{"block", "audit", "d", "k", "n", "p", "s", "i", "h", "c", "l", "r", "u"} {
			if strings.Contains(got+"\n", "SCAN "+table+"\n") || strings.Contains(got, "SCAN "+table+" ") {
				t.Errorf("%s: a whole table is read:\n%s", name, got)
			}
		}
		if !strings.HasPrefix(name, "audit, last") && name != "power limits" && strings.Contains(got, "TEMP B-TREE") {
			t.Errorf("%s: it is sorted:\n%s", name, got)
		}
	}
}

// TestCostIsFlat counts the steps of SQLite's machine for one and the same
// answer, with little history beside it and with much.
func TestCostIsFlat(t *testing.T) {
	s := open(t)
	id, other := add(t, s, "roof"), add(t, s, "barn")
	long := ingest.MaxSpan + time.Hour
	history := func(n int) {
		var mine, others []ingest.Block
		for i := range n {
			age := time.Duration(i) * time.Minute
			mine = append(mine, block(t, "east", noon.Add(-long-age).UnixMilli(), 1, 0, "pac"),
				block(t, "east", noon.Add(long+age).UnixMilli(), 1, 0, "pac"), block(t, "west", noon.Add(age).UnixMilli(), 1, 0, "pac"))
			others = append(others, block(t, "east", noon.Add(age).UnixMilli(), 1, 0, "pac"))
		}
		keep(t, s, id, mine...)
		keep(t, s, other, others...)
	}
	keep(t, s, id, block(t, "east", noon.UnixMilli(), 1, 7, "pac"), block(t, "east", noon.Add(-time.Hour).UnixMilli(), 1, 0, "pac"))
	steps := func() (n int) {
		s.turnTo(t, func(w *writer) {
			from, to := noon.UnixMilli(), noon.Add(time.Minute).UnixMilli()
			st, err := w.bind(selectBlocks, []any{"roof", "east", from - ingest.MaxSpan.Milliseconds(), to, from, int64(math.MinInt64), int64(0), int64(0), pageSize})
			if err != nil {
				t.Fatal(err)
			}
			rows := 0
			for st.Step() {
				rows++
			}
			if err := st.Reset(); err != nil || rows != 1 {
				t.Fatalf("%d rows, %v", rows, err)
			}
			n = st.Status(sqlite3.STMTSTATUS_VM_STEP, true)
		})
		return n
	}
	history(10)
	little := steps()
	history(500)
	if much := steps(); much > little {
		t.Errorf("%d steps with little history, %d with much", little, much)
	}
}
