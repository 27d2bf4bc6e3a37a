package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
)

const (
	logPage = 1000
	logWait = 20 // seconds that the cloud waits for news
	// The pauses before the cloud is asked again.
	retryPause    = time.Second
	retryPauseMax = 10 * time.Second
)

func (a *app) newLogCommand() *cobra.Command {
	var last int
	var device string
	var follow, security bool
	c := &cobra.Command{
		Use:   "log",
		Short: "Show what people did and what devices reported",
		Long: `Show the audit log: what people did to the fleet and what devices reported,
oldest first: time, who, device, action, and what it says.`,
		Example: "  ecowatt log --device roof-1\n  ecowatt log --last 10 --follow\n  ecowatt log --security --last 0",
		Args:    noArguments,
	}
	c.Flags().StringVar(&device, "device", "", "only what concerns this device")
	c.Flags().IntVar(&last, "last", 100, "only the newest so many records; 0 for all")
	c.Flags().BoolVar(&security, "security", false, "only security events: records with a reason")
	c.Flags().BoolVar(&follow, "follow", false, "go on with what comes, until interrupted")
	token := tokenFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON, one record per line, for programs")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(logPage)}}
		if last < 0 || last > 1_000_000 {
			return usagef("--last: %d is not within 0 and 1000000", last)
		}
		query.Set("last", strconv.Itoa(last))
		if security {
			query.Set("security", "true")
		}
		if device != "" {
			id, err := parseDevice(device)
			if err != nil {
				return err
			}
			query.Set("device", string(id))
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		show := showRecord
		if *asJSON {
			show = encodeRecord
		}
		r := &logReader{cloud: cloud, query: query, show: func(r audit.Record) error { return show(a.stdout, r) }, talk: a.stderr}
		if err := r.read(cmd.Context()); err != nil || !follow {
			return err
		}
		return r.follow(cmd.Context())
	}
	return c
}

// logReader reads the log page by page.
type logReader struct {
	cloud *client
	query url.Values // of the next page
	show  func(audit.Record) error
	talk  io.Writer
}

// read shows what there is.
func (r *logReader) read(ctx context.Context) error {
	for {
		shown, err := r.page(ctx)
		if err != nil || shown < logPage {
			return err
		}
	}
}

// page shows the next page and returns how many records it had.
func (r *logReader) page(ctx context.Context) (int, error) {
	var page api.Records
	if err := r.cloud.get(ctx, "/api/v1/audit", r.query, &page); err != nil {
		return 0, err
	}
	for _, record := range page.Records {
		if err := r.show(record); err != nil {
			return 0, err
		}
	}
	r.query.Set("after", strconv.FormatInt(page.Next, 10))
	return len(page.Records), nil
}

// follow shows what comes, until ctx ends. While the cloud is away it says so
// once and asks again and again; what happens meanwhile is not missed, because
// records are numbered.
func (r *logReader) follow(ctx context.Context) error {
	r.query.Del("last")
	pause, away := retryPause, false
	for {
		wait := logWait
		if away {
			wait = 0 // to know at once when it is back
		}
		r.query.Set("wait", strconv.Itoa(wait))
		began := time.Now()
		shown, err := r.page(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was asked to stop
		}
		if err != nil && !passing(err) {
			return err
		}
		if err != nil {
			if !away {
				fmt.Fprintf(r.talk, "%s; asking again\n", oneLine(err.Error()))
			}
			away = true
			sleep(ctx, pause)
			pause = min(2*pause, retryPauseMax)
			continue
		}
		if away {
			fmt.Fprintln(r.talk, "the cloud answers again")
			pause, away = retryPause, false
			continue
		}
		if shown == 0 && time.Since(began) < retryPause {
			sleep(ctx, retryPause) // a cloud that is about to stop answers at once
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// showRecord writes a record for people: its columns stand below each other
// as long as nothing is unusually wide.
func showRecord(w io.Writer, r audit.Record) error {
	actor := r.Actor.Name
	if actor == "" {
		actor = "cloud"
	}
	details := []string{r.Text}
	for _, name := range slices.Sorted(maps.Keys(r.Attrs)) {
		if value := r.Attrs[name]; value != "" {
			details = append(details, name+"="+value)
		}
	}
	_, err := fmt.Fprintf(w, "%s  %-13s  %-12s  %-18s  %s\n", localTime(r.At), oneLine(actor),
		oneLine(orMissing(string(r.Device))), oneLine(r.Action), oneLine(strings.Join(details, " ")))
	return err
}

// encodeRecord writes a record for programs, on a line of its own.
func encodeRecord(w io.Writer, r audit.Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", line)
	return err
}
