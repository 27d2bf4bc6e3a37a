package command_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
	"ecowatt/internal/disk/disktest"
)

// TestPowerCut cuts power at every operation of the disk, and before and after every
// request to the inverter, while a limit is ordered. When power is back the command
// comes again. It has one effect or none, and the report says which.
func TestPowerCut(t *testing.T) {
	order := func(w *world) []command.Command {
		return []command.Command{limitTo(1, int64(50), time.Hour, (1_700_000_000+3600+600)*1000), write(2, "plain", int64(44), (1_700_000_000+3600+600)*1000)}
	}
	whole := newWorld(t).start()
	whole.do(order(whole)...)
	type cut struct {
		disk, line int
		when       disktest.When
		fate       disktest.Fate
	}
	var cuts []cut
	for op := 1; op <= whole.disk.Ops(); op++ {
		for _, when := range []disktest.When{disktest.Before, disktest.Inside, disktest.After} {
			for _, fate := range []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed} {
				cuts = append(cuts, cut{disk: op, when: when, fate: fate})
			}
		}
	}
	for op := 1; op <= whole.ops; op++ {
		cuts = append(cuts, cut{line: op, when: disktest.Before}, cut{line: op, when: disktest.After, fate: disktest.Lost})
	}
	seen := map[command.Code]int{}
	for _, c := range cuts {
		w := newWorld(t).start()
		w.cutAt, w.after = c.line, c.when == disktest.After
		w.disk.CutAt(c.disk, c.when)
		w.engine.Deliver(order(w))
		w.steps(time.Minute)
		if !w.gone() {
			t.Fatalf("%+v: power was not cut", c)
		}
		w.stop()
		w.disk = w.disk.Restart(c.fate)
		w.dead, w.cutAt = false, 0
		w.start()
		w.engine.Deliver(order(w))
		w.steps(2 * time.Minute)
		for n, want := range map[int][2]uint16{1: {limitAt, 50}, 2: {plainAt, 440}} {
			r, ok := w.last(id(n))
			if !ok {
				t.Fatalf("%+v: nothing was told of command %d", c, n)
			}
			seen[r.Code]++
			writes, stands := w.writesOf(want[0], want[1]), w.registers[want[0]] == want[1]
			if writes > 1 || stands != (r.Code == command.CodeDone) {
				t.Errorf("%+v: command %d was written %d times, stands: %v, and ended with %s %s", c, n, writes, stands, r.Code, r.Text)
			}
		}
		w.steps(2 * time.Hour)
		if w.inForce() != [2]uint16{100, gateOff} || len(w.engine.Leases()) > 0 {
			t.Errorf("%+v: %v is in force in the end", c, w.inForce())
		}
	}
	t.Logf("%d cuts: %v", len(cuts), seen)
	if seen[command.CodeDone] == 0 || seen[command.CodeInterrupted] == 0 {
		t.Error("the cuts prove nothing")
	}
}

// TestOnceProperty runs commands through random schedules: deliveries come twice,
// late and out of order, answers are lost, the agent is killed and the gateway
// rebooted in the middle of everything, the inverter is away, refuses, or does
// what it does not confirm, and another controller writes.
func TestOnceProperty(t *testing.T) {
	seen := map[command.Code]int{}
	for seed := range uint64(2000) {
		c := newChaos(t, seed)
		c.run()
		c.check(seen)
		if t.Failed() {
			t.Fatalf("seed %d%s\n%v", seed, told(c.world), c.wrote)
		}
	}
	t.Log(seen)
	for _, want := range []command.Code{
		command.CodeDone, command.CodeInterrupted, command.CodeNotTaken, command.CodeUnknownOutcome, command.CodeOverwritten,
		command.CodeRefused, command.CodeInverterAway, command.CodeTooLate,
	} {
		if seen[want] == 0 {
			t.Errorf("no command ended with %s", want)
		}
	}
}

// chaos is a world, its cloud, and a source of accidents.
type chaos struct {
	*world
	random    *rand.Rand
	commands  []command.Command
	reported  map[command.ID]command.Result // as the cloud has them; final ones only
	taken     int                           // of the outbox, by the cloud
	others    bool                          // another controller writes now and then
	disturbed bool                          // it did
}

// values are written by one command each, so that their writes can be told apart.
func newChaos(tb testing.TB, seed uint64) *chaos {
	tb.Helper()
	c := &chaos{world: newWorld(tb), random: rand.New(rand.NewPCG(seed, 2)), reported: map[command.ID]command.Result{}}
	if seed%2 == 0 {
		c.profile = simple()
	}
	c.profile.Registers[0].Point.Min = 0
	c.others = seed%3 == 0
	c.disturbed = c.others
	c.start()
	return c
}

func (c *chaos) run() {
	for n := 1; n <= 8; n++ {
		ttl := time.Duration(5+c.random.IntN(300)) * time.Second
		var x command.Command
		if c.random.IntN(2) == 0 {
			x = write(n, "plain", int64(n), c.in(ttl))
		} else {
			x = write(n, command.LimitPoint, int64(10*n), c.in(ttl))
		}
		c.commands = append(c.commands, x)
		for range c.random.IntN(3) {
			c.exchange()
			c.accident()
			c.steps(time.Duration(c.random.IntN(60)) * time.Second)
			c.restart()
		}
	}
	calm(c.world)
	c.kill() // what is to be cut yet is not
	c.start()
	c.others = false
	c.unknown = false
	for range 30 {
		c.exchange()
		c.steps(time.Minute)
	}
}

// exchange brings what the cloud waits for, maybe twice, out of order or without
// its latest, and takes what the device tells; the answer to that may be lost.
func (c *chaos) exchange() {
	var pending []command.Command
	for _, x := range c.commands {
		if _, done := c.reported[x.ID]; !done {
			pending = append(pending, x)
		}
	}
	if len(pending) > 1 && c.random.IntN(4) == 0 {
		pending = pending[:len(pending)-1]
	}
	pending = append(pending, pending[:c.random.IntN(len(pending)+1)]...)
	c.random.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	c.engine.Deliver(pending)
	if c.random.IntN(3) == 0 { // the request is lost
		return
	}
	for ; c.taken < len(c.outbox); c.taken++ {
		if r := c.outbox[c.taken]; r.Status() != command.Executing {
			if before, ok := c.reported[r.ID]; ok && before != r && !cmp.Equal(before, r) {
				c.t.Errorf("command %v ended twice: %v, and %v", r.ID, before, r)
			}
			c.reported[r.ID] = r
			if c.random.IntN(3) > 0 { // else the answer is lost
				c.engine.Settled(r.ID)
			}
		}
	}
}

// accident lets requests fail for a while, and power be cut at one of the next
// operations.
func (c *chaos) accident() {
	trouble(c.world, c.random)
	fate := c.fate
	c.fate = func(write bool, address uint16) answer {
		if c.others && c.random.IntN(12) == 0 {
			c.registers[[]int{limitAt, plainAt}[c.random.IntN(2)]] = uint16(c.random.IntN(9) + 1) // no value of a command
		}
		return fate(write, address)
	}
	switch c.random.IntN(4) {
	case 0:
		c.cutAt, c.after = c.ops+1+c.random.IntN(12), c.random.IntN(2) == 0
	case 1:
		c.disk.CutAt(c.disk.Ops()+1+c.random.IntN(15), disktest.When(c.random.IntN(3)))
	}
}

// restart brings the power back, or just kills the agent.
func (c *chaos) restart() {
	if !c.gone() && c.random.IntN(4) > 0 {
		return
	}
	c.stop()
	c.disk = c.disk.Restart(disktest.Fate(c.random.IntN(4)))
	c.dead, c.cutAt = false, 0
	if c.random.IntN(3) == 0 {
		c.reboot(time.Duration(c.random.IntN(100)) * time.Second)
	}
	c.start()
}

// check compares what the inverter saw with what was reported.
func (c *chaos) check(seen map[command.Code]int) {
	var order []int
	for i, x := range c.commands {
		r, ok := c.reported[x.ID]
		if !ok {
			c.t.Errorf("nothing was reported of command %d", i+1)
			continue
		}
		seen[r.Code]++
		address, value := uint16(plainAt), uint16(10*(i+1))
		if x.Arguments["point"] == command.LimitPoint {
			address = limitAt
		}
		writes := 0
		for k, w := range c.wrote {
			if w.address != address || w.value != value || k > 0 && c.restores(k, value) {
				continue
			}
			writes++
			order = append(order, i)
			if w.at.Milliseconds() > x.NotAfter+100 {
				c.t.Errorf("command %d was carried out %v late", i+1, w.at-time.Duration(x.NotAfter)*time.Millisecond)
			}
		}
		least, most := 0, 0
		if r.Code == command.CodeDone {
			least = 1
		}
		if slices.Contains([]command.Code{ // seen, not seen, undone, or gone again by the hand of another
			command.CodeDone, command.CodeUnknownOutcome, command.CodeOverwritten, command.CodeInterrupted, command.CodeRefused, command.CodeNotTaken,
		}, r.Code) {
			most = 1
		}
		if !c.disturbed && slices.Contains([]command.Code{command.CodeInterrupted, command.CodeNotTaken}, r.Code) && c.profile.Name == "simple" {
			most = 0
		}
		if writes < least || writes > most {
			c.t.Errorf("command %d was written %d times and ended with %s", i+1, writes, r.Code)
		}
	}
	if !slices.IsSorted(order) {
		c.t.Errorf("commands were carried out in the order %v", order)
	}
}

// restores reports whether the k-th write put a value back that a command before
// had written: in the order of writes a later value came in between.
func (c *chaos) restores(k int, value uint16) bool {
	for _, w := range c.wrote[:k] {
		if w.address == c.wrote[k].address && w.value > value && w.value <= 80 { // not what was found in the beginning
			return true
		}
	}
	return false
}

// TestCodes compares the table of docs/commands.md with the code.
func TestCodes(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range command.Meanings() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", m.Code, m.Status, m.Text))
	}
	row := regexp.MustCompile("(?m)^\\| `[a-z_]+` \\| (executing|succeeded|failed|expired|rejected|no_effect) \\|.*$")
	if diff := cmp.Diff(want, row.FindAllString(string(doc), -1)); diff != "" {
		t.Errorf("docs/commands.md differs (-code +document):\n%s", diff)
	}
	for _, m := range command.Meanings() {
		if (command.Result{Code: m.Code}).Status() != m.Status || strings.ContainsAny(m.Text, "|\n") {
			t.Errorf("%+v", m)
		}
	}
}
