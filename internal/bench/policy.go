package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// fencePlan says how much of the firewall is measured.
type fencePlan struct {
	bindings []int // each of these counts
	swaps    int   // to the secure policy and back
	looks    int   // of Inspect
	rounds   int   // of packets
	packets  int   // of each kind in a round
	streams  int   // rounds of iperf3, one second each
}

// traffic is one kind of packet of the first binding.
type traffic struct {
	name, policy string
	port         uint16
	passes       bool
}

// Those of a closed capsule meet no rule: its link is down.
var kinds = []traffic{
	{"maintenance, with replies", policy.Maintenance, answering, true},
	{"secure, with replies", policy.Secure, answering, true},
	{"secure, none yet", policy.Secure, silent, true},
	{"secure, in no rule", policy.Secure, denied, false},
}

// fences measures the firewall by itself, without the daemon: changing a policy, looking at it, and what it costs a
// packet, with few and with many bindings.
func fences(ctx context.Context, b *bench) (err error) {
	f, err := openFence(ctx)
	defer func() { err = errors.Join(err, f.close(context.WithoutCancel(ctx))) }()
	if err != nil {
		return err
	}
	if err := swaps(ctx, b, f); err != nil {
		return err
	}
	if err := packets(ctx, b, f); err != nil {
		return err
	}
	return streams(ctx, b, f)
}

// swaps measures Put and Inspect of one binding.
func swaps(ctx context.Context, b *bench, f *fence) error {
	p := b.plan.fence
	t := table{title: fmt.Sprintf("One binding among others, half of which are in secure mode: %d times from maintenance to closed, secure, closed and back, and %d looks at it; medians", p.swaps, p.looks),
		head: []string{"bindings", "closed", "secure", "closed", "maintenance", "one iptables-restore of a rule", "Inspect", "processor time of it"}}
	for _, n := range p.bindings {
		b.say("policy swap and evidence among %d bindings", n)
		if err := f.fill(ctx, n, policy.Maintenance); err != nil {
			return err
		}
		row, err := swapsAmong(ctx, p, f)
		if err != nil {
			return err
		}
		t.add(append([]string{fmt.Sprint(n)}, row...)...)
	}
	t.print(b.out)
	return nil
}

// pause is how long the kernel has to free the rules of one change before the next one, which would wait for that.
const pause = 50 * time.Millisecond

// swapsAmong fills the columns behind the first.
func swapsAmong(ctx context.Context, p fencePlan, f *fence) ([]string, error) {
	var shut, secure, reshut, maintenance, bare, look, cpu sample
	put := func(name string) func() error { return func() error { return f.put(ctx, name) } }
	ways := []struct { // as the daemon goes: closed first, and then the other policy
		into *sample
		do   func() error
	}{
		{&shut, put(firewall.Closed)}, {&secure, put(policy.Secure)},
		{&reshut, put(firewall.Closed)}, {&maintenance, put(policy.Maintenance)},
		{&bare, func() error { return restoreOne(ctx) }},
	}
	for range p.swaps {
		for _, w := range ways {
			time.Sleep(pause)
			took, err := clock(w.do)
			if err != nil {
				return nil, err
			}
			*w.into = append(*w.into, took)
		}
	}
	tap := f.bindings(1, "")[0].Tap
	for range p.looks {
		before := processorTime()
		took, err := clock(func() error {
			e, err := f.chains.Inspect(ctx, tap)
			if err == nil && len(e.Differences) > 0 {
				err = fmt.Errorf("the rules are not as they should be: %s", strings.Join(e.Differences, "; "))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		look, cpu = append(look, took), append(cpu, processorTime()-before)
	}
	var row []string
	for _, s := range []sample{shut, secure, reshut, maintenance, bare, look, cpu} {
		row = append(row, ms(s.median()))
	}
	return row, nil
}

// restoreOne is the least that the program does which everybody else would call: a chain of one rule, of nobody's.
func restoreOne(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "iptables-restore", "--noflush", "-w")
	cmd.Stdin = strings.NewReader("*filter\n:bench - [0:0]\n-F bench\n-A bench -j DROP\nCOMMIT\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	return nil
}

// processorTime is what this process and the programs that it ran have used so far.
func processorTime() (d time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u) // fails for a who that is none
		d += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return d
}

// packets measures what a packet costs from the capsule's interface to the world's socket, or to where it is dropped.
func packets(ctx context.Context, b *bench, f *fence) error {
	p := b.plan.fence
	b.say("packets with %v bindings, %d rounds", p.bindings, p.rounds)
	w, err := openCable()
	if err != nil {
		return err
	}
	defer w.close()
	took := map[string]sample{}
	counts := append([]int{0}, p.bindings...)
	for round := range p.rounds {
		for i := range counts {
			n := counts[(i+round)%len(counts)]
			if err := f.fill(ctx, n, policy.Maintenance); err != nil {
				return err
			}
			for _, k := range kinds {
				if n > 0 {
					if err := f.put(ctx, k.policy); err != nil {
						return err
					}
				} else if k != kinds[0] {
					continue
				}
				frame := datagram(f.bindings(1, "")[0], k.port)
				if k.port == answering && k.passes {
					if err := w.answered(frame); err != nil {
						return fmt.Errorf("%s, %d bindings: %w", k.name, n, err)
					}
				}
				d, err := w.flood(frame, p.packets, k.passes)
				if err != nil {
					return fmt.Errorf("%s, %d bindings: %w", k.name, n, err)
				}
				key := fmt.Sprint(k.name, n)
				took[key] = append(took[key], d...)
			}
		}
	}
	t := table{title: fmt.Sprintf("One packet of 64 bytes from a capsule's interface to the socket in the world, or to where it is dropped; medians of %d rounds of %d, in batches of %d", p.rounds, p.packets, batch),
		head: []string{"packet"}}
	for _, n := range p.bindings {
		t.head = append(t.head, fmt.Sprintf("%d bindings", n))
	}
	t.head = append(t.head, "most to least bindings")
	free := make([]string, len(t.head))
	free[0], free[1] = "without a fence", us(took[fmt.Sprint(kinds[0].name, 0)].median())
	t.add(free...)
	for _, k := range kinds {
		row := []string{k.name}
		of := func(i int) time.Duration { return took[fmt.Sprint(k.name, p.bindings[i])].median() }
		for i := range p.bindings {
			row = append(row, us(of(i)))
		}
		t.add(append(row, ratio(of(len(p.bindings)-1), of(0)))...)
	}
	t.print(b.out)
	return nil
}

func us(d time.Duration) string { return fmt.Sprintf("%.2f us", d.Seconds()*1e6) }

// streams measures what one TCP connection carries.
func streams(ctx context.Context, b *bench, f *fence) (err error) {
	p := b.plan.fence
	b.say("iperf3 through the fence, %d rounds", p.streams)
	serving, stop := context.WithCancel(ctx)
	server := testhost.World(serving, "iperf3", "-s", "-p", fmt.Sprint(iperfPort))
	if err := server.Start(); err != nil {
		stop()
		return err
	}
	defer func() { stop(); _ = server.Wait() }() // killed: that is no error
	most := p.bindings[len(p.bindings)-1]
	ways := []struct {
		name, policy string
		bindings     int
		carried      []float64
	}{
		{"without a fence", policy.Maintenance, 0, nil},
		{"maintenance", policy.Maintenance, p.bindings[0], nil}, {"maintenance", policy.Maintenance, most, nil},
		{"secure", policy.Secure, p.bindings[0], nil}, {"secure", policy.Secure, most, nil},
	}
	for round := range p.streams {
		for i := range ways {
			w := &ways[(i+round)%len(ways)]
			if err := f.fill(ctx, w.bindings, w.policy); err != nil {
				return err
			}
			rate, err := stream(ctx)
			if err != nil {
				return fmt.Errorf("%s, %d bindings: %w", w.name, w.bindings, err)
			}
			w.carried = append(w.carried, rate)
		}
	}
	t := table{title: fmt.Sprintf("iperf3, one TCP connection from the capsule's interface to the world, best of %d rounds", p.streams),
		head: []string{"policy", "bindings", "Gbit/s", "to no fence", "to one binding"}}
	best := func(i int) float64 { return slices.Max(ways[i].carried) }
	for i, w := range ways {
		row := []string{w.name, fmt.Sprint(w.bindings), fmt.Sprintf("%.2f", best(i)/1e9), fmt.Sprintf("%.2f", best(i)/best(0)), ""}
		if i > 0 {
			row[4] = fmt.Sprintf("%.2f", best(i)/best((i-1)/2*2+1))
		}
		t.add(row...)
	}
	t.print(b.out)
	return nil
}

// stream is one second of iperf3, in bits per second as they arrived.
func stream(ctx context.Context) (rate float64, err error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = rig.Until(waiting, func() (err error) { // the server takes a moment
		rate, err = streamOnce(ctx)
		return err
	})
	return rate, err
}

// streamOnce reads what the client says: with -J it ends with 0 whatever happened.
func streamOnce(ctx context.Context) (float64, error) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", wireName, "iperf3", "-J", "-t", "1", "-c", testhost.WorldAddr, "-p", fmt.Sprint(iperfPort)).Output()
	var said struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if jerr := json.Unmarshal(out, &said); err == nil {
		err = jerr
	}
	if err == nil && said.End.Received.Rate == 0 {
		err = errors.New("nothing arrived")
	}
	if err != nil {
		return 0, fmt.Errorf("iperf3: %w: %s", err, said.Error)
	}
	return said.End.Received.Rate, nil
}
