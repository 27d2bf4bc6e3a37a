package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/audit"
)

func TestAuditRecordsComeBack(t *testing.T) {
	s := open(t)
	want := []audit.Record{
		{N: 1, At: noon, Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Action: "token.refused", Text: "refused"},
		{
			N: 2, At: noon.Add(time.Millisecond), Actor: audit.Actor{Kind: audit.Device, Name: "roof"}, Device: "roof",
			Action: "device.reported", Text: "it's \"ä\" and\nmore", Attrs: map[string]string{"a": "1", "ä": `"`},
		},
	}
	for _, r := range want {
		r.N = 99 // given by the store
		if err := s.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, records(t, s, audit.Filter{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAuditFilter(t *testing.T) {
	s := open(t)
	do(t, s, func(tx *Tx) error {
		for i := range 1200 {
			r := audit.Record{At: noon, Actor: audit.Actor{Kind: audit.System}, Action: "test.noted"}
			if i%2 == 1 { // the even numbers
				r.Device = "roof"
			}
			if i%400 == 1 { // 2, 402, 802
				r.Device = "barn"
			}
			if i%600 == 1 { // 2, 602
				r.Attrs = map[string]string{audit.AttrReason: "EX_GAP"}
			}
			if err := tx.Append(r); err != nil {
				return err
			}
		}
		return nil
	})
	for name, c := range map[string]struct {
		f    audit.Filter
		want string // first … last, how many
	}{
		"all":                     {audit.Filter{}, "1…1000 1000"},
		"after":                   {audit.Filter{After: 1190}, "1191…1200 10"},
		"after the end":           {audit.Filter{After: 1200}, ""},
		"limit":                   {audit.Filter{After: 10, Limit: 5}, "11…15 5"},
		"last":                    {audit.Filter{Last: 3}, "1198…1200 3"},
		"last, after":             {audit.Filter{Last: 30, After: 1190}, "1191…1200 10"},
		"last, limit":             {audit.Filter{Last: 10, Limit: 4}, "1191…1194 4"},
		"device":                  {audit.Filter{Device: "barn"}, "2…802 3"},
		"device, after":           {audit.Filter{Device: "barn", After: 2}, "402…802 2"},
		"device, last":            {audit.Filter{Device: "barn", Last: 2}, "402…802 2"},
		"device, last and limit":  {audit.Filter{Device: "roof", Last: 3, Limit: 2}, "1196…1198 2"},
		"a device not there":      {audit.Filter{Device: "shed"}, ""},
		"a device like a pattern": {audit.Filter{Device: "%"}, ""},
		"security":                {audit.Filter{Security: true}, "2…602 2"},
		"security, last":          {audit.Filter{Security: true, Last: 1}, "602…602 1"},
		"security of a device":    {audit.Filter{Security: true, Device: "roof"}, "602…602 1"},
		"limits below zero":       {audit.Filter{Last: -1, Limit: -1}, "1…1000 1000"},
	} {
		got := ""
		if list := records(t, s, c.f); len(list) > 0 {
			got = fmt.Sprintf("%d…%d %d", list[0].N, list[len(list)-1].N, len(list))
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestAuditIsAppendOnly: the database itself refuses to change the log.
func TestAuditIsAppendOnly(t *testing.T) {
	s := open(t)
	do(t, s, note("a"))
	do(t, s, note("b"))
	before := records(t, s, audit.Filter{})
	for _, statement := range []string{
		`UPDATE audit SET text = 'x' WHERE n = 1`,
		`UPDATE audit SET n = 7 WHERE n = 2`,
		`DELETE FROM audit WHERE n = 2`,
		`DELETE FROM audit`,
		`INSERT OR REPLACE INTO audit (n, at, actor_kind, actor, device, action, text, attrs, reason) VALUES (1, 0, 'system', '', '', 'x', 'x', '{}', '')`,
	} {
		err := s.write(t.Context(), func(tx *Tx) error {
			_, err := tx.w.exec(statement)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "the audit log is not") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if diff := cmp.Diff(before, records(t, s, audit.Filter{})); diff != "" {
		t.Errorf("the log changed (-want +got):\n%s", diff)
	}
}

// TestAuditRefuses what is outside its vocabulary.
func TestAuditRefuses(t *testing.T) {
	s := open(t)
	for name, r := range map[string]audit.Record{
		"no actor":         {Action: "test.noted"},
		"an unknown actor": {Action: "test.noted", Actor: audit.Actor{Kind: "nobody"}},
		"no action":        {Actor: audit.Actor{Kind: audit.System}},
	} {
		if err := s.Append(t.Context(), r); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
