package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
)

const (
	defaultRecords = 100
	maxWait        = 25 * time.Second // as PageInput says
	// lookInterval is how often the log is looked at while a caller waits for news.
	lookInterval = 500 * time.Millisecond
)

// Records is a page of the audit log.
type Records struct {
	Records []audit.Record `json:"records" nullable:"false" doc:"Oldest first"`
	Next    int64          `json:"next" doc:"Give it as after to go on, also when there is nothing more yet"`
}

type recordsOutput struct{ Body Records }

// PageInput says which records of the log are asked for.
type PageInput struct {
	After int64 `query:"after" minimum:"0" doc:"Only records with a greater number"`
	Last  int   `query:"last" minimum:"0" maximum:"1000000" doc:"Only the newest so many of those; 0 for no such bound"`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many in one answer"`

	Security bool `query:"security" doc:"Only security events: records with a reason"`
	Wait     int  `query:"wait" minimum:"0" maximum:"25" doc:"Where there is nothing, wait so many seconds for something"`
}

func (in PageInput) filter(device ecowatt.DeviceID) audit.Filter {
	f := audit.Filter{Device: device, Security: in.Security, After: in.After, Last: in.Last, Limit: in.Limit}
	if f.Limit == 0 {
		f.Limit = defaultRecords
	}
	return f
}

type auditInput struct {
	PageInput
	Device string `query:"device" doc:"Only records that concern this device"`
}

type eventsInput struct {
	DeviceInput
	PageInput
}

// paging is how the log is read, told in the documentation.
const paging = " Oldest first, a page at a time: give the answer's next as after to go on, with wait to follow what comes."

func (s *server) registerAudit() {
	register(s, access.SeeAudit, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: "/audit",
		Summary:     "The audit log",
		Description: "What people did to the fleet and what devices reported." + paging,
		Errors:      []int{http.StatusUnprocessableEntity}, Middlewares: huma.Middlewares{patient},
	}, func(ctx context.Context, in *auditInput) (*recordsOutput, error) {
		if in.Device != "" {
			if _, err := ecowatt.ParseDeviceID(in.Device); err != nil {
				return nil, invalid("query.device", err.Error())
			}
		}
		return s.records(ctx, in.PageInput, ecowatt.DeviceID(in.Device))
	})
}

// patient keeps the server's bound on the time of an answer from ending a wait.
func patient(ctx huma.Context, next func(huma.Context)) {
	_, w := humago.Unwrap(ctx)
	// A writer without deadlines needs none moved.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxWait + stallTime))
	next(ctx)
}

// records reads a page, and where it is empty looks again until the caller's
// patience ends or the server's. Looking, unlike being told, also sees what
// another process writes into the database.
func (s *server) records(ctx context.Context, in PageInput, device ecowatt.DeviceID) (*recordsOutput, error) {
	f := in.filter(device)
	found, err := s.Log.AuditRecords(ctx, f)
	if err == nil && len(found) == 0 && in.Wait > 0 {
		found, err = s.awaitRecords(ctx, f, time.Duration(in.Wait)*time.Second)
	}
	if err != nil {
		return nil, err
	}
	page := Records{Records: []audit.Record{}, Next: in.After}
	if len(found) > 0 {
		page.Records, page.Next = found, found[len(found)-1].N
	}
	return &recordsOutput{Body: page}, nil
}

func (s *server) awaitRecords(ctx context.Context, f audit.Filter, patience time.Duration) ([]audit.Record, error) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.Draining:
			return nil, nil
		case <-end.C:
			return nil, nil
		case <-look.C:
			if found, err := s.Log.AuditRecords(ctx, f); err != nil || len(found) > 0 {
				return found, err
			}
		}
	}
}
