package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// memoryPlan is how often a guest of one size is switched.
type memoryPlan struct {
	touched int  // MiB
	rounds  int  // of enter and leave, through the daemon and with the bare calls
	saves   int  // of savevm and loadvm
	again   bool // savevm over the one before, too, which takes longer
}

// The steps in which the daemon waits for the guest to answer: mounts, a flush, its clock. No bare call does that.
var guestSteps = map[string]bool{"mount": true, "flush": true, "clock": true}

// switches gathers what the two directions took for one guest.
type switches struct {
	plan         memoryPlan
	ramBytes     int64
	enter, leave course
	save, again  sample
	load         sample
}

// course is one direction, by the daemon and by the bare calls.
type course struct {
	whole sample // the operation, from the request to its end
	own   sample // of it, without the guest's steps
	bare  sample // libvirt's calls
	calls map[string]sample
	names []string
	steps steps
}

func (w *course) add(op wire.Operation, whole time.Duration) {
	w.steps.add(op, whole)
	w.whole = append(w.whole, whole)
	for _, s := range op.Steps {
		if guestSteps[s.Name] {
			whole -= seconds(s.Seconds)
		}
	}
	w.own = append(w.own, whole)
}

// call notes one of the bare calls of a round.
func (w *course) call(name string, took time.Duration) {
	if w.calls == nil {
		w.calls = map[string]sample{}
	}
	if _, ok := w.calls[name]; !ok {
		w.names = append(w.names, name)
	}
	w.calls[name] = append(w.calls[name], took)
}

// secure measures the way into secure mode and back, against the bare calls that it comes down to and against savevm
// and loadvm, which keep RAM and disk in one file. All of them are done to the same process of the same guest in turn;
// the daemon is stopped while it is not its turn.
func secure(ctx context.Context, b *bench) error {
	var all []*switches
	defer func() { reportSwitches(b, all) }() // also of those before a failure: they took minutes
	for _, p := range b.plan.memory {
		b.say("secure mode with %d MiB of touched RAM: %d rounds, savevm %d times", p.touched, p.rounds, p.saves)
		capsule, err := b.guest(ctx, p.touched)
		if err != nil {
			return err
		}
		s, err := b.switched(ctx, capsule, p)
		if err != nil {
			return err
		}
		all = append(all, s)
		if _, _, err := b.d.act(ctx, b.d.api.DeleteCapsule, capsule); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) switched(ctx context.Context, capsule string, p memoryPlan) (*switches, error) {
	s := &switches{plan: p}
	var m *machine
	defer func() {
		if m != nil {
			m.close()
		}
	}()
	legs := []func() error{
		func() error {
			return b.byDaemon(ctx, capsule, s, func() (err error) { // the volumes are looked at while they are attached
				if m == nil {
					m, err = openMachine(capsule)
				}
				return err
			})
		},
		func() error { return b.without(func() error { return s.byCalls(ctx, m) }) },
	}
	if p.rounds > 1 { // once off the clock
		if err := legs[0](); err != nil {
			return nil, err
		}
		s.enter, s.leave = course{}, course{}
	}
	for round := range p.rounds {
		for i := range legs {
			if err := legs[(i+round)%len(legs)](); err != nil {
				return nil, err
			}
		}
	}
	return s, b.without(func() error {
		for range p.saves {
			if err := s.bySave(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// without does something while the daemon is stopped.
func (b *bench) without(do func() error) error {
	if err := b.d.halt(); err != nil {
		return err
	}
	err := do()
	_, booted := b.d.boot()
	return errors.Join(err, booted)
}

// byDaemon switches there and back; look is called in between, off the clock.
func (b *bench) byDaemon(ctx context.Context, capsule string, s *switches, look func() error) error {
	for _, d := range []struct {
		mode string
		into *course
		look func() error
	}{{"secure", &s.enter, look}, {"maintenance", &s.leave, func() error { return nil }}} {
		settle()
		op, took, err := b.d.switchTo(ctx, capsule, d.mode)
		if err != nil {
			return err
		}
		d.into.add(op, took)
		if err := d.look(); err != nil {
			return err
		}
	}
	return nil
}

func (s *switches) byCalls(ctx context.Context, m *machine) error {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	point, err := m.checkpoint()
	if err != nil {
		return err
	}
	disks, err := m.attach()
	if err != nil {
		return err
	}
	s.enter.call("virDomainSnapshotCreateXML", point)
	s.enter.call("virDomainAttachDeviceFlags, twice", disks)
	s.enter.bare = append(s.enter.bare, point+disks)
	st, err := os.Stat(m.ram())
	if err != nil {
		return err
	}
	s.ramBytes = st.Size()
	settle()
	calls, err := m.back()
	if err != nil {
		return err
	}
	for i, name := range []string{"virDomainDestroy", "virDomainRestoreFlags, paused", "virDomainResume"} {
		s.leave.call(name, calls[i])
	}
	s.leave.bare = append(s.leave.bare, calls[0]+calls[1]+calls[2])
	return m.tidy()
}

// bySave saves the guest into an overlay that has nothing in it yet, so that savevm finds room and nothing to free, and
// takes it back to a clean point afterwards.
func (s *switches) bySave(ctx context.Context, m *machine) error {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if _, err := m.checkpoint(); err != nil {
		return err
	}
	type turn struct {
		command string
		into    *sample
	}
	turns := []turn{{"savevm point", &s.save}, {"loadvm point", &s.load}}
	if s.plan.again {
		turns = slices.Insert(turns, 1, turn{"savevm point", &s.again})
	}
	for _, k := range turns {
		settle()
		took, err := m.monitor(k.command)
		if err != nil {
			return err
		}
		*k.into = append(*k.into, took)
	}
	if _, err := m.back(); err != nil {
		return err
	}
	return m.tidy()
}

func reportSwitches(b *bench, all []*switches) {
	if len(all) == 0 {
		return
	}
	for _, d := range []struct {
		name   string
		course func(*switches) *course
	}{
		{"enter", func(s *switches) *course { return &s.enter }},
		{"leave", func(s *switches) *course { return &s.leave }},
	} {
		t := table{title: fmt.Sprintf("%s secure mode, from the request on the unix socket to the end of the operation, medians", d.name),
			head: []string{"touched RAM", "rounds", d.name, "of it the guest's answers", "the rest", "bare calls", "rest over bare", "ratio"}}
		for _, s := range all {
			w := d.course(s)
			t.add(fmt.Sprintf("%d MiB", s.plan.touched), fmt.Sprint(len(w.whole)), ms(w.whole.median()), ms(differences(w.whole, w.own).median()),
				ms(w.own.median()), ms(w.bare.median()), ms(differences(w.own, w.bare).median()), ratio(w.own.median(), w.bare.median()))
		}
		t.print(b.out)
		for _, s := range all {
			d.course(s).report(b, fmt.Sprintf("Where the time of %s goes, with %d MiB of touched RAM", d.name, s.plan.touched))
		}
	}
	reportSaves(b, all)
}

// report shows each step, and each of the bare calls.
func (w *course) report(b *bench, title string) {
	t := table{title: title, head: []string{"", "median", "p10", "p90", "share"}}
	w.steps.rows(&t, w.whole.median())
	for _, name := range w.names {
		c := w.calls[name]
		t.add("bare "+name, ms(c.median()), ms(c.at(0.1)), ms(c.at(0.9)), ratio(c.median(), w.whole.median()))
	}
	t.print(b.out)
}

func reportSaves(b *bench, all []*switches) {
	t := table{title: "Enter and leave, without the guest's answers, against savevm and loadvm of the same guest, medians",
		head: []string{"touched RAM", "RAM file", "enter", "savevm, first", "to enter", "savevm, over it", "to enter", "leave", "loadvm", "to leave"}}
	for _, s := range all {
		enter, leave, again := s.enter.own.median(), s.leave.own.median(), s.again.median()
		row := []string{fmt.Sprintf("%d MiB", s.plan.touched), mib(s.ramBytes), ms(enter), ms(s.save.median()), ratio(s.save.median(), enter), "", "",
			ms(leave), ms(s.load.median()), ratio(s.load.median(), leave)}
		if again != 0 {
			row[5], row[6] = ms(again), ratio(again, enter)
		}
		t.add(row...)
	}
	t.print(b.out)
}
