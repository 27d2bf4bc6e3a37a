package gateway

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/config"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/session"
	"ecowatt/wire"
)

// Limits of what one request may cause. The device keeps what is left over, and
// sends it again.
const (
	maxMessages = 512 // messages that get a result
	maxRecords  = 256 // records of the audit log, of the device's own words
)

// Limits of the device's words, in bytes, and of their number.
const (
	maxLine    = 64  // of a name, a code, a version
	maxText    = 160 // of a text
	maxEntries = 128 // of a message of the device's log; the rest is counted
	maxAttrs   = 16  // of an entry
)

// message is one message of a request, looked into and ready to take effect.
type message struct {
	ingest.Message
	problem   string // why it never can; "" when it can
	log       []audit.Record
	leases    []command.LeaseEvent
	report    *command.Report
	answer    *config.Answer
	status    *rollout.Report
	inventory *registry.Inventory
}

// Sizes in the body of an answer, in bytes: everything but the results, and a
// result without its text.
const (
	answerHeads = 1 + (1 + 9) + (1 + 3) + (1 + 5) // map, server time, array of results, next slot
	resultHeads = 1 + 17 + 1 + 3                  // array, id, status, head of the text
)

// plan looks into the messages of a request, oldest first, as far as the answer
// has room, in bytes, for what became of them and the limits allow. The others
// get no result, so the device keeps them. left is what remains of the room.
func plan(messages []wire.Message, room int, claim session.Claim) (planned []message, left int) {
	records := maxRecords
	for _, m := range messages[:min(len(messages), maxMessages)] {
		x := look(m, claim)
		text := len(x.problem)
		if x.report != nil {
			text = len(neverSent) // which it may turn out to be
		}
		records -= len(x.log)
		if x.status != nil {
			records--
		}
		if room < resultHeads+text || records < 0 {
			break
		}
		room -= resultHeads + text
		planned = append(planned, x)
	}
	return planned, room
}

// look reads the body of a message. What is wrong with it concerns it alone.
func look(m wire.Message, claim session.Claim) message {
	kind := ingest.Kind(m.Kind)
	x := message{Message: ingest.Message{ID: m.ID, Hash: ingest.Hash(kind, m.Body), Kind: kind}}
	var err error
	switch m.Kind {
	case wire.KindTelemetry:
		x.Block, err = telemetry(m.Body, claim.At)
	case wire.KindLog:
		x.log, x.leases, err = deviceLog(m.Body, claim)
	case wire.KindInventory:
		x.inventory, err = inventory(m.Body)
	case wire.KindConfigAck:
		x.answer, err = configAnswer(m.Body)
	case wire.KindCommandResult:
		x.report, err = commandReport(m.Body)
	case wire.KindFotaStatus:
		x.status, err = fotaStatus(m.Body)
	default:
		err = &ingest.InvalidError{Problem: fmt.Sprintf("messages of kind %d are not known here", uint64(m.Kind))}
	}
	if err != nil {
		x.problem = clean(err.Error(), maxText)
	}
	return x
}

func telemetry(body []byte, now time.Time) (*ingest.Block, error) {
	t, err := wire.DecodeTelemetry(body)
	if err != nil {
		return nil, err
	}
	x := ingest.Telemetry{Inverter: t.Inverter, Points: t.Points, T0: t.T0, Codec: t.Codec, Count: t.Count, Data: t.Data, Window: t.Window}
	if t.Boot != nil {
		x.Boot = &ingest.Instant{Boot: ingest.BootID(t.Boot.Boot), Mono: t.Boot.Mono}
	}
	b, err := ingest.Check(x, now)
	if err != nil {
		return nil, err
	}
	return &b, nil
}

// deviceLog makes records of the entries of a device's log. Their words are the
// device's: bounded, without control characters, and never trusted.
// What it says of power limits comes beside.
func deviceLog(body []byte, claim session.Claim) (records []audit.Record, leases []command.LeaseEvent, err error) {
	entries, err := wire.DecodeLog(body)
	if err != nil {
		return nil, nil, err
	}
	kept := entries[:min(len(entries), maxEntries)]
	records = make([]audit.Record, 0, len(kept)+1)
	for _, e := range kept {
		if x, ok := leaseEvent(e); ok {
			leases = append(leases, x)
		}
		r := deviceRecord(claim, "device.log", clean(e.Text, maxText))
		for _, name := range firstKeys(e.Attributes, maxAttrs) {
			r.Attrs[clean(name, maxLine)] = clean(fmt.Sprint(e.Attributes[name]), maxText)
		}
		r.Attrs["code"], r.Attrs["level"] = clean(e.Code, maxLine), levelName(e.Level)
		// What is a security event is not for a device's attributes to say.
		if delete(r.Attrs, audit.AttrReason); isReason(e.Code) {
			r.Attrs[audit.AttrReason] = r.Attrs["code"]
		}
		if e.At > 0 { // when the device wrote it, which may be long ago
			r.Attrs["time"] = time.UnixMilli(e.At).UTC().Format(time.RFC3339)
		}
		records = append(records, r)
	}
	if left := len(entries) - len(kept); left > 0 {
		records = append(records, deviceRecord(claim, "device.log", fmt.Sprintf("entries of the device's log that were not kept: %d", left)))
	}
	return records, leases, nil
}

// isReason reports whether a code of a device's log is that of a security event.
func isReason(code string) bool {
	for _, family := range []string{"HS_", "EX_", "SESS_", "ROT_", "FW_"} {
		if strings.HasPrefix(code, family) {
			return true
		}
	}
	return false
}

func firstKeys(m map[string]any, most int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys[:min(len(keys), most)]
}

func levelName(l wire.Level) string {
	switch l {
	case wire.LevelDebug:
		return "debug"
	case wire.LevelInfo:
		return "info"
	case wire.LevelWarn:
		return "warning"
	case wire.LevelError:
		return "error"
	}
	return fmt.Sprint(uint64(l))
}

func inventory(body []byte) (*registry.Inventory, error) {
	v, err := wire.DecodeInventory(body)
	if err != nil {
		return nil, err
	}
	x := &registry.Inventory{
		AgentVersion: clean(v.AgentVersion, maxLine), Hardware: clean(v.Hardware, maxText),
		ControlAllowed: v.ControlAllowed, Inverters: make([]registry.Inverter, 0, len(v.Inverters)),
	}
	for name, i := range v.Inverters {
		if _, err := ecowatt.ParseName("inverter", name); err != nil {
			return nil, &ingest.InvalidError{Problem: "the name of an inverter is not valid"}
		}
		points, err := inventoryPoints(i.Points)
		if err != nil {
			return nil, err
		}
		x.Inverters = append(x.Inverters, registry.Inverter{
			Name: name, Profile: clean(i.Profile, maxLine), ProfileVersion: clean(i.ProfileVersion, maxLine),
			Serial: clean(i.Serial, maxLine), Model: clean(i.Model, maxLine), Points: points,
		})
	}
	slices.SortFunc(x.Inverters, func(a, b registry.Inverter) int { return strings.Compare(a.Name, b.Name) })
	return x, nil
}

func inventoryPoints(points []ecowatt.Point) ([]ecowatt.Point, error) {
	if len(points) > ingest.MaxPoints {
		return nil, &ingest.InvalidError{Problem: fmt.Sprintf("more than %d points of an inverter", ingest.MaxPoints)}
	}
	seen := make(map[string]bool, len(points))
	for i := range points {
		p := &points[i]
		if _, err := ecowatt.ParseName("point", p.Name); err != nil || seen[p.Name] {
			return nil, &ingest.InvalidError{Problem: "the name of a point is not valid, or there twice"}
		}
		seen[p.Name] = true
		p.Unit = clean(p.Unit, maxLine)
	}
	return points, nil
}

// clean makes a device's words fit to be shown: no control characters, at most
// that many bytes.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
	if len(s) <= most {
		return s
	}
	const more = "…"
	end := most - len(more)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}
