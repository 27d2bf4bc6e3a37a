package command

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Action names what a device can be told to do (protocol, section 5).
type Action string

// The closed set of actions.
const (
	WritePoint    Action = "write_point"
	SetPowerLimit Action = "set_power_limit"
	ReadPoints    Action = "read_points"
	RestartAgent  Action = "restart_agent"
)

// Actions lists all actions in the order of the protocol.
func Actions() []Action { return []Action{WritePoint, SetPowerLimit, ReadPoints, RestartAgent} }

// writes reports whether the action changes an inverter.
func (a Action) writes() bool { return a == WritePoint || a == SetPowerLimit }

// OnEnd says what a device does when a power limit ends.
type OnEnd string

// The closed set of ends.
const (
	Restore OnEnd = "restore" // writes the value that it found
	Release OnEnd = "release" // takes the order back, as the inverter's profile says
)

// Bounds of a task.
const (
	DefaultLease = time.Hour
	MinLease     = time.Second
	MaxLease     = 30 * 24 * time.Hour
	MaxPoints    = 64 // read at a time
)

// Task is what a device is to do. An action has the fields that its comment
// names; the others are zero.
type Task struct {
	Action   Action
	Inverter string        // all but RestartAgent; empty before Prepare for the only one there is
	Point    string        // WritePoint
	Value    float64       // WritePoint: in the point's unit
	Percent  float64       // SetPowerLimit: 0 to 100
	Lease    time.Duration // SetPowerLimit: whole seconds; zero before Prepare for DefaultLease
	OnEnd    OnEnd         // SetPowerLimit: empty before Prepare for Restore
	Points   []string      // ReadPoints
}

// Arguments are the arguments of the task as devices get them: text, text lists
// ([]any) and numbers, int64 where they are whole and float64 where not.
func (t Task) Arguments() map[string]any {
	switch t.Action {
	case WritePoint:
		return map[string]any{"inverter": t.Inverter, "point": t.Point, "value": number(t.Value)}
	case SetPowerLimit:
		return map[string]any{
			"inverter": t.Inverter, "percent": number(t.Percent), "lease_s": int64(t.Lease / time.Second), "on_end": string(t.OnEnd),
		}
	case ReadPoints:
		points := make([]any, len(t.Points))
		for i, p := range t.Points {
			points[i] = p
		}
		return map[string]any{"inverter": t.Inverter, "points": points}
	case RestartAgent:
	}
	return map[string]any{}
}

// number is an int64 where the value is whole.
func number(v float64) any {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return int64(v)
	}
	return v
}

// arguments is the union of what actions take, in JSON.
type arguments struct {
	Inverter string   `json:"inverter"`
	Point    string   `json:"point"`
	Value    *float64 `json:"value"`
	Percent  *float64 `json:"percent"`
	LeaseS   *int64   `json:"lease_s"`
	OnEnd    OnEnd    `json:"on_end"`
	Points   []string `json:"points"`
}

// ParseTask reads the arguments of an action, a JSON object. Whether the task
// makes sense is for Prepare to say; what is missing and has no default is a
// *RefusedError, as is an action that there is not.
func ParseTask(action Action, args []byte) (Task, error) {
	var a arguments
	if len(args) > 0 {
		if err := json.Unmarshal(args, &a); err != nil {
			return Task{}, refused(CodeInvalid, "arguments", "they cannot be read")
		}
	}
	t := Task{Action: action, Inverter: a.Inverter}
	switch action {
	case WritePoint:
		if a.Value == nil {
			return Task{}, missing("arguments.value")
		}
		t.Point, t.Value = a.Point, *a.Value
	case SetPowerLimit:
		if a.Percent == nil {
			return Task{}, missing("arguments.percent")
		}
		t.Percent, t.OnEnd = *a.Percent, a.OnEnd
		if a.LeaseS != nil {
			if t.Lease = leaseOf(*a.LeaseS); t.Lease == 0 {
				return Task{}, leaseProblem()
			}
		}
	case ReadPoints:
		t.Points = a.Points
	case RestartAgent:
		t.Inverter = ""
	default:
		return Task{}, refused(CodeUnknownAction, "action", fmt.Sprintf("there is no action %.40q", string(action)))
	}
	return t, nil
}

// leaseOf is zero where so many seconds are out of bounds.
func leaseOf(s int64) time.Duration {
	if s < int64(MinLease/time.Second) || s > int64(MaxLease/time.Second) {
		return 0
	}
	return time.Duration(s) * time.Second
}

// String says for people what is to be done.
func (t Task) String() string {
	switch t.Action {
	case WritePoint:
		return fmt.Sprintf("write %s = %s on %s", t.Point, decimal(t.Value), t.Inverter)
	case SetPowerLimit:
		return fmt.Sprintf("limit %s to %s %% for %s, then %s", t.Inverter, decimal(t.Percent), span(t.Lease), t.OnEnd)
	case ReadPoints:
		return fmt.Sprintf("read %s of %s", strings.Join(t.Points, ", "), t.Inverter)
	case RestartAgent:
		return "restart the agent"
	}
	return string(t.Action)
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// span writes a duration as people do: "2h", "1h30m", "45s".
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
