package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// verifyPlan says how many capsules the verifier has to prove, and for how many seconds it is watched.
type verifyPlan struct{ capsules, seconds int }

// Where the pid of libvirtd is; it does what the daemon asks for.
const libvirtdPid = "/run/libvirtd.pid"

// verifying measures what proving every capsule in secure mode anew costs. Their guests have no system to boot and do
// nothing, and so does the daemon but for the verifier: what it uses with the verifier at rest is subtracted.
func verifying(ctx context.Context, b *bench) (err error) {
	p := b.plan.verified
	b.say("the verifier over %d capsules in secure mode", p.capsules)
	defer func() { err = errors.Join(err, b.d.configure("")) }()
	// No agent will ever answer: it need not be waited for.
	if err := b.d.configure("[secure]\nverify_every = \"10m\"\nmount_wait = \"1s\"\n"); err != nil {
		return err
	}
	image, err := b.d.emptyImage(ctx)
	if err != nil {
		return err
	}
	var capsules []string
	for range p.capsules {
		op, _, err := b.d.createOf(ctx, image, 64)
		if err != nil {
			return err
		}
		capsules = append(capsules, op.Target)
	}
	err = atOnce(capsules, func(id string) error {
		if _, _, err := b.d.act(ctx, b.d.api.LaunchCapsule, id); err != nil {
			return err
		}
		_, _, err := b.d.switchTo(ctx, id, "secure")
		return err
	})
	if err != nil {
		return err
	}
	rest, err := b.watch(ctx, p, "10m")
	if err != nil {
		return err
	}
	work, err := b.watch(ctx, p, "1s")
	if err != nil {
		return err
	}
	if work.passes == 0 || work.proved != p.capsules {
		return fmt.Errorf("in %d s the verifier made %d passes, and it has %d of %d capsules proved", p.seconds, work.passes, work.proved, p.capsules)
	}
	pass := func(d time.Duration) time.Duration { return d / time.Duration(work.passes) }
	t := table{title: fmt.Sprintf("The verifier's pass over %d capsules in secure mode, mean of %d passes in %d s", p.capsules, work.passes, p.seconds),
		head: []string{"", "processor time", "of one processor, every 5 s"}}
	for _, r := range []struct {
		name string
		took time.Duration
	}{{"capsuled and the programs that it runs", pass(work.daemon - rest.daemon)}, {"libvirtd", pass(work.libvirtd - rest.libvirtd)}} {
		t.add(r.name, ms(r.took), fmt.Sprintf("%.2f %%", 100*r.took.Seconds()/5))
	}
	t.add("of it the reading of the rules, by the clock", ms(pass(seconds(work.inspect))), "")
	t.print(b.out)
	err = atOnce(capsules, func(id string) error {
		_, _, err := b.d.act(ctx, b.d.api.DeleteCapsule, id)
		return err
	})
	return err
}

// atOnce does something to all, four at a time.
func atOnce(all []string, do func(string) error) error {
	turn, errs := make(chan struct{}, 4), make([]error, len(all))
	var g sync.WaitGroup
	for i, one := range all {
		turn <- struct{}{}
		g.Go(func() { errs[i] = do(one); <-turn })
	}
	g.Wait()
	return errors.Join(errs...)
}

// configure starts the daemon anew with more lines of configuration than usual.
func (d *daemon) configure(more string) error {
	if err := os.WriteFile(d.Config, []byte(config+more), 0o600); err != nil {
		return err
	}
	_, err := d.restart()
	return err
}

// emptyImage adds an image that has nothing on it, and returns its id.
func (d *daemon) emptyImage(ctx context.Context) (string, error) {
	path := filepath.Join(filepath.Dir(d.Config), "empty.qcow2")
	if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, "64M").CombinedOutput(); err != nil {
		return "", fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return d.Ctl(ctx, "image", "add", "--name", "empty", "--public", path)
}

// effort is what a while has cost.
type effort struct {
	daemon, libvirtd time.Duration // of processors
	passes           int           // each reads all rules once, when there are two capsules or more
	inspect          float64       // seconds of that reading
	proved           int           // capsules, in the end
}

// watch starts the daemon anew with the verifier at a pace, and returns what the time after it cost.
func (b *bench) watch(ctx context.Context, p verifyPlan, every string) (e effort, err error) {
	if err := b.d.configure("[secure]\nverify_every = \"" + every + "\"\n"); err != nil {
		return e, err
	}
	if err := b.d.collected(ctx, p.capsules); err != nil {
		return e, err
	}
	was, err := b.d.effort(ctx)
	if err != nil {
		return e, err
	}
	select {
	case <-ctx.Done():
		return e, ctx.Err()
	case <-time.After(time.Duration(p.seconds) * time.Second):
	}
	now, err := b.d.effort(ctx)
	return effort{now.daemon - was.daemon, now.libvirtd - was.libvirtd, now.passes - was.passes, now.inspect - was.inspect, now.proved}, err
}

func (d *daemon) effort(ctx context.Context) (e effort, err error) {
	if e.daemon, err = processTime(d.Pid()); err != nil {
		return e, err
	}
	text, err := os.ReadFile(libvirtdPid)
	if err != nil {
		return e, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return e, err
	}
	if e.libvirtd, err = processTime(pid); err != nil {
		return e, err
	}
	_, body, err := d.Get(ctx, "/metrics")
	if err != nil {
		return e, err
	}
	const series = "capsuled_firewall_call_duration_seconds"
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, series+`_count{call="inspect"} `); ok {
			if e.passes, err = strconv.Atoi(strings.TrimSpace(rest)); err != nil {
				return e, err
			}
		}
		if rest, ok := strings.CutPrefix(line, series+`_sum{call="inspect"} `); ok {
			if e.inspect, err = strconv.ParseFloat(strings.TrimSpace(rest), 64); err != nil {
				return e, err
			}
		}
		if strings.HasPrefix(line, "capsule_policy_verified{") && strings.HasSuffix(line, " 1\n") {
			e.proved++
		}
	}
	return e, nil
}

// ticks are the units of proc(5) in a second: USER_HZ, which is 100 for every program on Linux.
const ticks = 100

// processTime is what a process and the children that it has waited for have used of processors (proc(5), stat).
func processTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may have spaces
	f := strings.Fields(rest)
	if len(f) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat is not as proc(5) has it: %q", pid, text)
	}
	sum := 0
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}
