package agent

import (
	"bytes"
	"encoding/hex"
	"slices"
	"time"

	"ecowatt/agent/buffer"
	"ecowatt/agent/config"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// polling is how an inverter is to be polled.
type polling struct {
	points   []string
	interval time.Duration
	full     bool // also while it sleeps or is away
}

// ackWaiting is the last answer to an update that was given to the buffer. While
// it waits there the same one need not follow it, however often the cloud asks.
type ackWaiting struct {
	id   wire.MessageID
	body []byte // nil for none
}

// openConfig finds out what is in force.
func (d *device) openConfig() {
	d.config = config.Open(config.Options{
		FS: d.folder, Boot: hex.EncodeToString(d.boot[:]), Logger: d.logger,
		Gateway: config.Gateway{
			Own: d.settings.own(), Fixed: d.settings.Fixed, Points: d.points, Polls: d.checkPolls, Uploads: d.checkUploads,
		},
	})
}

// own is the settings as values of the parameters.
func (s Settings) own() parameter.Values {
	points := map[string]any{}
	for _, in := range s.Inverters {
		points[in.Name] = listOf(in.Points)
	}
	return parameter.Values{
		parameter.SamplingInterval:  inSeconds(s.SamplingInterval),
		parameter.UploadInterval:    inSeconds(s.UploadInterval),
		parameter.Registers:         points,
		parameter.Compression:       s.Compression,
		parameter.PayloadCap:        s.PayloadCap,
		parameter.AggregationWindow: inSeconds(s.AggregationWindow),
		parameter.FlushInterval:     inSeconds(s.FlushInterval),
		parameter.LogLevel:          levelWord(s.LogLevel),
		parameter.NightMode:         s.NightMode,
		parameter.UpdateWindow:      s.UpdateWindow,
		parameter.DownloadBudget:    s.DownloadBudget,
	}
}

// inSeconds is a time as the value of a parameter. Whoever wrote the settings may
// have wanted a fraction.
func inSeconds(d time.Duration) any {
	if d%time.Second == 0 {
		return int64(d / time.Second)
	}
	return d.Seconds()
}

// listOf is the canonical list of points.
func listOf(points []string) []any {
	list := []any{}
	for _, p := range slices.Sorted(slices.Values(points)) {
		list = append(list, p)
	}
	return list
}

// points returns what there is to read of every inverter.
func (d *device) points() map[string][]string {
	points := map[string][]string{}
	for i, in := range d.settings.Inverters {
		points[in.Name] = d.pollers[i].Found().Profile.PointNames()
	}
	return points
}

// pointsOf returns the points of in that values ask for, in the order of its
// settings or else of its profile; nil for all.
func pointsOf(in InverterSettings, values parameter.Values) []string {
	lists, _ := values[parameter.Registers].(map[string]any)
	list, _ := lists[in.Name].([]any)
	if parameter.Equal(list, listOf(in.Points)) {
		return in.Points
	}
	names := parameter.Lists(list)[""]
	order := in.Profile.PointNames()
	slices.SortStableFunc(names, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return names
}

// apply puts into force what the configuration says. Samplers take it over
// between two samples. It is called before the loops run, and by talk.
func (d *device) apply() {
	v := d.config.Values()
	level, _ := v[parameter.LogLevel].(string)
	if l, err := parseLevel(level); err == nil {
		d.level.Set(l)
	}
	window, _ := v[parameter.UpdateWindow].(string)
	budget, _ := v[parameter.DownloadBudget].(int64)
	d.updates.taking.Store(&taking{window: window, budget: uint64(budget)})
	slot := config.Seconds(v[parameter.UploadInterval])
	if d.updates.trial.Load() {
		slot = min(slot, trialSlot)
	}
	if slot != d.slotLength {
		d.slotLength = slot
		d.uplink.SetInterval(slot)
	}
	compression, _ := v[parameter.Compression].(string)
	payloadCap, _ := v[parameter.PayloadCap].(int64)
	d.packing.Store(&Packing{
		Compression: compression, PayloadCap: int(payloadCap),
		Window: config.Seconds(v[parameter.AggregationWindow]).Milliseconds(),
	})
	d.queue.setFlushInterval(config.Seconds(v[parameter.FlushInterval]))
	for i, in := range d.settings.Inverters {
		replace(d.wanted[i], polling{
			points: pointsOf(in, v), interval: config.Seconds(v[parameter.SamplingInterval]), full: v[parameter.NightMode] == "full",
		})
	}
	d.noteConfig()
}

// replace puts v into a channel of capacity 1, in place of what is there. Nobody
// else may put anything there.
func replace[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// configure does what an answer says about the configuration, and returns whether
// there is something to tell.
func (d *device) configure(u *wire.ConfigUpdate) (told bool) {
	if u == nil {
		return false
	}
	answer, changed := d.config.Take(config.Update{Revision: u.Revision, Parameters: u.Parameters})
	if changed {
		d.apply()
	}
	d.noteConfig()
	return d.tellConfig(answer)
}

// noteAttempt tells the configuration how an exchange went. begins is whether it
// began a slot: one that follows another within seconds proves nothing.
func (d *device) noteAttempt(err error, begins bool) {
	switch {
	case err == nil && begins:
		d.config.Reached()
	case err != nil && d.config.Failed(d.now()):
		d.apply()
		d.tellConfig(d.config.Answer())
	}
	d.noteConfig()
}

// tellConfig gives an answer to the buffer, unless the same one waits there.
func (d *device) tellConfig(a config.Answer) (told bool) {
	ack := wire.ConfigAck{Revision: a.Revision, Accepted: a.Accepted, Rejected: map[string]wire.Rejection{}, Unchanged: a.Unchanged}
	for name, r := range a.Rejected {
		ack.Rejected[name] = wire.Rejection{Code: string(r.Code), Text: r.Text}
	}
	body, err := wire.EncodeConfigAck(ack)
	if err == nil && bytes.Equal(body, d.ack.body) {
		return false
	}
	var m buffer.Message
	if err == nil {
		m, err = newMessage(wire.KindConfigAck, body, d.random)
	}
	if err != nil {
		d.logger.Error("the answer to a configuration cannot be told", "code", "config_not_told", "revision", a.Revision, "error", err)
		return false
	}
	d.ack = ackWaiting{id: m.ID, body: body}
	d.pending = append(d.pending, m)
	d.putPending()
	return true
}

// noteSettled forgets the answer that waits, once it is settled.
func (d *device) noteSettled(ids [][16]byte) {
	if slices.Contains(ids, [16]byte(d.ack.id)) {
		d.ack = ackWaiting{}
	}
}

// ConfigStatus is the configuration in force.
type ConfigStatus struct {
	Revision   uint64            `json:"revision"` // of the cloud's last update; 0: there was none
	OnTrial    bool              `json:"on_trial"` // a change waits for an exchange to prove it
	Parameters []ParameterStatus `json:"parameters"`
}

// ParameterStatus is the value in force of one parameter.
type ParameterStatus struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
	From  string `json:"from"` // "cloud" or "gateway"
}

// String writes the parameter as the command line has it.
func (p ParameterStatus) String() string { return p.Name + "=" + parameter.Format(p.Value) }

// noteConfig keeps what is in force for the status.
func (d *device) noteConfig() {
	v := d.config.Values()
	s := &ConfigStatus{Revision: d.config.Answer().Revision, OnTrial: d.config.OnTrial()}
	for _, name := range v.Names() {
		from := "gateway"
		if d.config.FromCloud(name) {
			from = "cloud"
		}
		s.Parameters = append(s.Parameters, ParameterStatus{Name: name, Value: v[name], From: from})
	}
	d.inForce.Store(s)
}
