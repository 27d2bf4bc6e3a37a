package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// killsPerRoof stays below the number of handshakes that the cloud grants a
// device in a burst: each start of an agent is one.
const killsPerRoof = 3

// TestKillAnything kills the simulator, the cloud, agents and launchers at
// random moments, starts them again, and then compares what the simulator
// served with what the cloud has stored: nothing twice, nothing invented, in
// order, and missing only what was on its way when a process died.
//
// Attacks: O6, O7
func TestKillAnything(t *testing.T) {
	t.Parallel()
	const roofs = 3
	f := newFleet(t, roofs)
	for _, name := range f.roofs {
		f.startRoof(t, name)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	// What was on its way is lost with a process: per kill of an agent one
	// sample of its roof, per kill of the simulator one of every roof.
	excused := map[string]int{}
	var victims []string
	for _, name := range f.roofs {
		for range killsPerRoof {
			victims = append(victims, name)
		}
	}
	for range 6 {
		victims = append(victims, "sim", "cloud")
	}
	random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })

	for i, victim := range victims {
		f.awaitServed(t, 1+random.IntN(4))
		switch victim {
		case "sim":
			f.sim.kill(t)
			f.startSim(t, roofs)
			for _, name := range f.roofs {
				excused[name]++
			}
		case "cloud":
			f.cloud.kill(t)
			f.startCloud(t)
		default:
			excused[victim]++
			f.killRoof(t, victim, i%2 == 0)
		}
	}
	f.awaitServed(t, 6)
	f.sim.stop(t)
	for _, name := range f.roofs {
		eventually(t, name+" has sent everything", func() bool {
			s, ok := f.status(t, name)
			return ok && s.Buffer.Samples == 0 && s.Buffer.Messages == 0
		})
	}
	trace := f.readTrace(t)
	for i, name := range f.roofs {
		f.compare(t, name, 17+i, trace, excused[name])
	}
	for _, name := range f.roofs {
		f.launchers[name].stop(t)
	}
	f.cloud.stop(t)
}

// awaitServed waits until the simulator has answered n more reads.
func (f *fleet) awaitServed(t *testing.T, n int) {
	t.Helper()
	want := len(f.readTrace(t)) + n
	eventually(t, fmt.Sprintf("%d more reads", n), func() bool { return len(f.readTrace(t)) >= want })
}

// killRoof kills a roof's agent, which its launcher starts again, or the
// launcher, which is started again here.
func (f *fleet) killRoof(t *testing.T, name string, launcher bool) {
	t.Helper()
	var before agentStatus
	eventually(t, "an agent of "+name, func() (ok bool) {
		before, ok = f.status(t, name)
		return ok
	})
	if launcher {
		f.launchers[name].kill(t)
		f.startRoof(t, name)
	} else if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new agent of "+name, func() bool {
		s, ok := f.status(t, name)
		return ok && s.PID != before.PID
	})
}

// stored is the JSON of "ecowatt telemetry show".
type stored struct {
	Inverters []struct {
		Inverter string `json:"inverter"`
		Points   []struct {
			Name string `json:"name"`
		} `json:"points"`
		Samples []struct {
			T      int64    `json:"t"`
			Values []*int64 `json:"values"`
		} `json:"samples"`
	} `json:"inverters"`
}

// compare holds what the cloud stored of a roof against what was served to it.
func (f *fleet) compare(t *testing.T, name string, unit int, trace []served, excused int) {
	t.Helper()
	trace = slices.DeleteFunc(slices.Clone(trace), func(s served) bool { return s.Unit != unit })
	have := parseJSON[stored](t, must(t, f.env, "ecowatt", "telemetry", "show", name, "--since", "1h", "--json"))
	next, count := 0, 0
	var last int64
	for _, part := range have.Inverters {
		for _, sample := range part.Samples {
			count++
			if sample.T <= last {
				t.Errorf("%s: sample at %d follows one at %d", name, sample.T, last)
			}
			last = sample.T
			words := make([]int64, len(sample.Values))
			for i, v := range sample.Values {
				if v == nil {
					t.Errorf("%s: sample at %d lacks %s", name, sample.T, part.Points[i].Name)
					continue
				}
				words[i] = *v
			}
			found := slices.IndexFunc(trace[next:], func(s served) bool { return slices.Equal(s.Words, words) })
			if found < 0 {
				t.Fatalf("%s: sample at %d was never served, or is stored twice: %v\nstored %d so far, %d served\n%s", name, sample.T, words, count, len(trace), cmp.Diff(trace[max(0, next-1)].Words, words))
			}
			s := trace[next+found]
			next += found + 1
			if off := s.T - sample.T; off < -1500 || off > 1500 {
				t.Errorf("%s: sample served at %d is stored at %d", name, s.T, sample.T)
			}
		}
	}
	if missing := len(trace) - count; missing > excused {
		t.Errorf("%s: %d of %d samples are missing, at most %d were on their way when something was killed", name, missing, len(trace), excused)
	}
	t.Logf("%s: %d served, %d stored, %d excused", name, len(trace), count, excused)
	if count == 0 {
		t.Errorf("%s: nothing is stored", name)
	}
	if _, err := os.Stat(f.roof(name)); err != nil {
		t.Error(err)
	}
}
