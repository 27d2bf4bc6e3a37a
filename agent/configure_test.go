package agent

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
	"ecowatt/agent/config"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// checkConfigured is check for samples whose points change: pac counts, and is
// always among them.
func (r *rig) checkConfigured() {
	r.t.Helper()
	r.plant.mu.Lock()
	defer r.plant.mu.Unlock()
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	var got, want []int
	last := int64(0)
	for _, b := range r.cloud.blocks {
		at := slices.Index(b.Points, "pac")
		for _, s := range r.cloud.unpack(b) {
			if b.Boot != nil {
				s.At += r.boot.UnixMilli()
			}
			if s.At <= last {
				r.t.Fatalf("a sample at %d after one at %d", s.At, last)
			}
			last = s.At
			got = append(got, int(s.Values[at].Raw))
		}
	}
	for i := range r.plant.served {
		want = append(want, 1+i)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("samples (-served +stored):\n%.2000s", diff)
	}
}

// gaps returns the times between the samples that were served since, each once.
func (r *rig) gaps(since time.Time) []time.Duration {
	r.plant.mu.Lock()
	defer r.plant.mu.Unlock()
	var gaps []time.Duration
	for i, at := range r.plant.served[1:] {
		if gap := at.Sub(r.plant.served[i]); r.plant.served[i].After(since) && !slices.Contains(gaps, gap) {
			gaps = append(gaps, gap)
		}
	}
	return gaps
}

// TestConfigurationAtRunTime changes how often is sampled, what is, and how often
// it is uploaded, without a restart: no sample is lost or comes twice, and all of
// it is told. C2, C3.
func TestConfigurationAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.start()
		r.runFor(time.Hour)
		for _, c := range []struct {
			revision uint64
			set      map[string]any
			told     string
			sampling time.Duration
			slot     time.Duration
			points   []string
		}{
			{
				1,
				map[string]any{"sampling_interval": int64(2), "upload_interval": int64(60), "registers": []any{"pac"}},
				"1 +registers +sampling_interval +upload_interval", 2 * time.Second, time.Minute,
				[]string{"pac"},
			},
			{
				2,
				map[string]any{"sampling_interval": int64(7), "upload_interval": int64(60), "registers": map[string]any{"inv1": []any{"pac", "temp", "vac1"}}},
				"2 +registers +sampling_interval =upload_interval", 7 * time.Second, time.Minute,
				[]string{"vac1", "temp", "pac"},
			},
			{
				3,
				map[string]any{"sampling_interval": int64(0), "upload_interval": "soon", "registers": []any{"vac9"}, "zeal": true, "log_level": "warn"},
				"3 +log_level -registers=unknown_point -sampling_interval=out_of_range -upload_interval=wrong_type -zeal=unknown_parameter", 7 * time.Second, time.Minute,
				[]string{"vac1", "temp", "pac"},
			},
			{4, map[string]any{"upload_interval": int64(600)}, "4 +log_level +registers +sampling_interval +upload_interval", 5 * time.Second, 10 * time.Minute, []string{"vac1", "pac"}},
		} {
			r.cloud.setConfig(c.revision, c.set)
			r.runFor(16 * time.Minute) // in the next exchange, and the next slot after it is a new one
			told := r.cloud.told()
			if told[len(told)-1] != c.told {
				t.Errorf("revision %d: %s, want %s", c.revision, told[len(told)-1], c.told)
			}
			since, requests := time.Now(), r.cloud.count()
			r.runFor(time.Hour)
			if gaps := r.gaps(since); !slices.Equal(gaps, []time.Duration{c.sampling}) {
				t.Errorf("revision %d: samples are %v apart", c.revision, gaps)
			}
			if n := r.cloud.count() - requests; n != int(time.Hour/c.slot) {
				t.Errorf("revision %d: %d requests in an hour", c.revision, n)
			}
			r.cloud.locked(func() {
				if b := r.cloud.blocks[len(r.cloud.blocks)-1]; !slices.Equal(b.Points, c.points) {
					t.Errorf("revision %d: points %v", c.revision, b.Points)
				}
			})
			if len(r.cloud.told()) != len(told) {
				t.Errorf("revision %d is told again: %q", c.revision, r.cloud.told())
			}
		}
		if s := r.status().Config; s.Revision != 4 || s.OnTrial || len(s.Parameters) != len(parameter.All()) || s.Parameters[1] != (ParameterStatus{"upload_interval", int64(600), "cloud"}) || s.Parameters[0].From != "gateway" {
			t.Errorf("status: %+v", s)
		}
		if strings.Contains(r.log.String(), "level=ERROR") {
			t.Errorf("log:\n%s", r.log.String())
		}
		r.restart()
		r.runFor(30 * time.Minute)
		r.plant.setSilent(true)
		r.runFor(20 * time.Minute)
		r.checkConfigured()
		if told := r.cloud.told(); told[0] != "0" || told[len(told)-1] != "4 +log_level +registers +sampling_interval +upload_interval" {
			t.Errorf("told at the starts: %q", told)
		}
		r.stop()
	})
}

// TestConfigurationThatCutsOff: an upload interval under which nothing arrives is
// taken back by the device itself, and told.
func TestConfigurationThatCutsOff(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			r.start()
			r.runFor(time.Hour)
			r.cloud.setConfig(1, map[string]any{"upload_interval": int64(60), "night_mode": "full"})
			var running atomic.Pointer[device]
			running.Store(r.device)
			// Whoever is on the way does not like requests that come so often.
			r.cloud.locked(func() {
				r.cloud.meddle = func(_ int, q wire.Request, _ []wire.Result) fate {
					for _, p := range running.Load().inForce.Load().Parameters {
						if p.Name == "upload_interval" && p.Value == int64(60) && slices.ContainsFunc(r.cloud.acks, func(a wire.ConfigAck) bool { return a.Revision == 1 }) {
							return lost
						}
					}
					return arrives
				}
			})
			for len(r.cloud.told()) == 1 {
				r.runFor(time.Minute)
			}
			r.runFor(5 * time.Minute)
			if !r.inForce.Load().OnTrial {
				t.Fatalf("not on trial: %+v", r.inForce.Load())
			}
			if restarts {
				r.restart()
				running.Store(r.device)
			}
			r.runFor(time.Hour)
			want := []string{"0", "1 +night_mode +upload_interval", "1 +night_mode -upload_interval=infeasible"}
			if restarts {
				want = slices.Insert(want, 2, want[1])
			}
			if diff := cmp.Diff(want, r.cloud.told()); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if s := r.inForce.Load(); s.OnTrial || s.Parameters[1].Value != int64(900) || s.Parameters[1].From != "gateway" {
				t.Errorf("in force: %+v", s)
			}
			r.cloud.locked(func() {
				if text := r.cloud.acks[len(r.cloud.acks)-1].Rejected["upload_interval"].Text; text != "undone: the cloud could not be reached for 10 min under 60" {
					t.Error(text)
				}
			})
			r.stop()
			r.plant.setSilent(true)
			r.start()
			r.runFor(20 * time.Minute)
			r.checkConfigured()
			r.stop()
		})
	}
}

// TestConfigurationIsToldOnce: while an answer waits for the cloud, the update that
// comes again brings no second one.
func TestConfigurationIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.cloud.meddle = func(n int, q wire.Request, results []wire.Result) fate {
			for i, m := range q.Messages {
				if m.Kind == wire.KindConfigAck && n < 10 {
					results[i].Status = wire.Later
				}
			}
			return arrives
		}
		r.cloud.setConfig(5, map[string]any{"night_mode": "full"})
		r.start()
		r.runFor(4 * time.Hour)
		if diff := cmp.Diff([]string{"0", "5 +night_mode"}, r.cloud.told()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		r.stop()
	})
}

// TestConfigurationSurvivesEveryCut: power is cut at every operation of the disk
// from the exchange that brings an update on. It is in force and told in the end,
// as one and the same.
func TestConfigurationSurvivesEveryCut(t *testing.T) {
	hit := true
	for op := 1; hit; op++ {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(s *Settings) { s.UploadInterval = time.Minute })
			r.start()
			r.runFor(5 * time.Minute)
			r.cloud.setConfig(3, map[string]any{"flush_interval": int64(0), "sampling_interval": int64(3), "zeal": int64(1)})
			r.disk.CutAt(r.disk.Ops()+op, []disktest.When{disktest.Before, disktest.Inside, disktest.After}[op%3])
			r.runFor(2 * time.Minute)
			_, err := r.disk.Stat(".")
			if hit = err != nil && op < 60; !hit && op < 20 {
				t.Errorf("only %d operations", op)
			}
			r.kill()
			r.disk = r.disk.Restart([]disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed}[op/3%4])
			r.parts.boot = wire.BootID{0xb0, byte(op)}
			r.start()
			r.runFor(5 * time.Minute)
			want := "3 +flush_interval +sampling_interval -zeal=unknown_parameter"
			told := slices.DeleteFunc(r.cloud.told(), func(line string) bool { return line == "0" })
			for _, line := range told {
				// A disk without power can tell that it failed before it is dead.
				if line != want && line != "3 -flush_interval=storage_failed -sampling_interval=storage_failed -zeal=unknown_parameter" {
					t.Errorf("cut at %d: told %s", op, line)
				}
			}
			if len(told) == 0 {
				t.Errorf("cut at %d: nothing was told", op)
			}
			if in := r.inForce.Load(); in.Revision == 3 && told[len(told)-1] != want {
				t.Errorf("cut at %d: in force is revision %d, and told last was %s", op, in.Revision, told[len(told)-1])
			}
			r.stop()
		})
	}
}

// TestConfigurationOfTheRest: what is neither sampled nor uploaded is applied too.
func TestConfigurationOfTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.LogLevel, s.Fixed = 0, []string{"log_level"} })
		r.cloud.setConfig(1, map[string]any{"night_mode": "full", "flush_interval": int64(600), "log_level": "debug"})
		r.start()
		r.runFor(time.Hour)
		if diff := cmp.Diff([]string{"0", "1 +flush_interval +night_mode -log_level=not_permitted"}, r.cloud.told()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		r.plant.setSilent(true)
		since := len(r.log.String())
		r.runFor(10 * time.Minute)
		if s := r.status().Inverters[0]; s.Failures < 100 {
			t.Errorf("an inverter that is away was polled %d times in 10 minutes\n%s", s.Failures, r.log.String()[since:])
		}
		r.plant.setSilent(false)
		r.runFor(time.Minute)
		r.cloud.setAway(true)
		r.runFor(time.Minute)
		r.queue.mu.Lock()
		if _, waiting := r.queue.b.FlushDue(); !waiting {
			t.Error("a sample does not wait for its fsync")
		}
		r.queue.mu.Unlock()
		r.stop()
	})
}

func TestCheckPollsAndUploads(t *testing.T) {
	slow := inverter.Profile{Name: "slow", Block: 10, Timing: inverter.Timing{Gap: 400 * time.Millisecond}}
	for i := range uint16(4) {
		register := inverter.Register{Table: inverter.Holding, Address: 100 * i}
		register.Point.Name = string(rune('a' + i))
		slow.Registers = append(slow.Registers, register)
	}
	wire9600 := modbus.Endpoint{Kind: modbus.KindRTU, Line: modbus.Line{Device: "/dev/ttyUSB0", Baud: 300}}
	for _, c := range []struct {
		name  string
		given map[string]any
		edit  func(*Settings)
		want  string // the parameter that is refused, and why
	}{
		{"it fits", map[string]any{"sampling_interval": int64(2)}, nil, ""},
		{"four gaps in a second", map[string]any{"sampling_interval": int64(1)}, nil, "sampling_interval: polling inv1 takes at least 1.6s, longer than the interval of 1s"},
		{"two gaps in a second", map[string]any{"sampling_interval": int64(1), "registers": []any{"a", "b"}}, nil, ""},
		{"a slow line", map[string]any{"sampling_interval": int64(3)}, func(s *Settings) { s.Inverters[0].Connect = wire9600 }, "sampling_interval: polling inv1 takes at least 3.6s"},
		{"a slow line for two", map[string]any{"sampling_interval": int64(2), "registers": []any{"a", "b"}}, func(s *Settings) {
			s.Inverters[0].Connect = wire9600
			two := s.Inverters[0]
			two.Name = "inv2"
			s.Inverters = append(s.Inverters, two)
		}, ""},
		{"a day", map[string]any{"upload_interval": int64(86400)}, nil, ""},
		{"a day that the buffer does not hold", map[string]any{"upload_interval": int64(86400)}, func(s *Settings) { s.BufferLimit = 64 << 10 }, "upload_interval: the samples of 24h0m0s are at least 103680 bytes"},
		{"it holds its minutes", map[string]any{"upload_interval": int64(86400), "aggregation_window": int64(60)}, func(s *Settings) { s.BufferLimit = 64 << 10 }, ""},
		{"not plainly", map[string]any{"upload_interval": int64(35000), "compression": "none"}, func(s *Settings) { s.BufferLimit = 64 << 10 }, "compression: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(s *Settings) {
					s.Inverters[0].Profile, s.Inverters[0].Points = slow, slow.PointNames()
					if c.edit != nil {
						c.edit(s)
					}
				})
				r.parts.inverters = func(InverterSettings) command.Line { return r.plant }
				r.start()
				answer, _ := r.config.Take(config.Update{Revision: 1, Parameters: c.given})
				r.stop()
				var got []string
				for name, x := range answer.Rejected {
					got = append(got, name+": "+x.Text)
				}
				if len(got) > 1 || c.want == "" && len(got) > 0 || c.want != "" && (len(got) == 0 || !strings.HasPrefix(got[0], c.want)) {
					t.Errorf("refused %q, want %q", got, c.want)
				}
			})
		})
	}
}
