package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// envPrograms tells the copy inside the host where the programs are that the one outside built.
const envPrograms = "CAPSULED_BENCH_PROGRAMS"

// plan says how much is measured.
type plan struct {
	cloneSizes string // a pattern of GiB
	cloneTimes string // of each kind of clone, for one mean; of cp, which takes seconds, one
	cloneCount string // of those means, for a median
	creations  int
	pairs      int   // of launchvm and virsh start
	capsules   []int // memory and restart are measured with each of these, rising
	restarts   int
	scrapes    int
	memory     []memoryPlan // of guests that are switched
	fence      fencePlan
	verified   verifyPlan
	image      imagePlan
}

var (
	full = plan{
		cloneSizes: "1|10|100", cloneTimes: "40x", cloneCount: "7", creations: 30, pairs: 41, capsules: []int{0, 200, 1000}, restarts: 5, scrapes: 50,
		memory:   []memoryPlan{{256, 5, 2, true}, {1024, 5, 1, true}, {4096, 1, 1, false}},
		fence:    fencePlan{bindings: []int{1, 100, 1000}, swaps: 20, looks: 20, rounds: 5, packets: 20000, streams: 3},
		verified: verifyPlan{50, 15},
		image:    imagePlan{images: 10000, rounds: 61, batch: 20, clients: 200, each: 20, crowds: 15, writes: 200, fileMB: 1024, imports: 5},
	}
	quick = plan{
		cloneSizes: "1", cloneTimes: "5x", cloneCount: "1", creations: 3, pairs: 2, capsules: []int{0, 5}, restarts: 1, scrapes: 5,
		memory:   []memoryPlan{{32, 1, 1, true}},
		fence:    fencePlan{bindings: []int{1, 10}, swaps: 2, looks: 2, rounds: 1, packets: 1000, streams: 1},
		verified: verifyPlan{2, 3},
		image:    imagePlan{images: 10000, rounds: 3, batch: 10, clients: 20, each: 5, crowds: 3, writes: 5, fileMB: 16, imports: 1},
	}
)

// part is one chapter of the report.
type part struct {
	name  string
	place place
	run   func(context.Context, *bench) error
}

// place is where a part runs; the places are run in this order.
type place int

const (
	outside place = iota // of the host: it makes one of its own
	before               // on the host, before the daemon is started
	beside               // on the same host, beside the one daemon; it leaves no capsule
)

var parts = []part{
	{"clone", outside, clones},
	{"fence", before, fences},
	{"images", beside, images},
	{"create", beside, creations},
	{"launch", beside, launches},
	{"secure", beside, secure},
	{"verify", beside, verifying},
	{"scale", beside, scale},
}

// bench is a run.
type bench struct {
	plan plan
	root string // of the module
	out  io.Writer
	d    *daemon // only beside it
}

// say tells the one who waits how far it is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

func main() {
	short := flag.Bool("quick", false, "few rounds and small numbers: shows that it works, not how fast")
	only := flag.String("only", "", "comma-separated parts of "+names()+"; all when empty")
	root := flag.String("root", ".", "root of the module")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{plan: full, root: *root, out: os.Stdout}
	if *short {
		b.plan = quick
	}
	wanted, err := choose(*only)
	if err == nil && !testhost.Inside() {
		err = b.outside(ctx, wanted)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !slices.ContainsFunc(wanted, func(p part) bool { return p.place != outside }) {
		return
	}
	os.Exit(testhost.Enter(func() int {
		if err := b.inside(ctx, wanted); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}, testhost.WithLibvirt()))
}

func names() string {
	var all []string
	for _, p := range parts {
		all = append(all, p.name)
	}
	return strings.Join(all, ", ")
}

func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no part %q; there are %s", name, names())
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// outside does what needs the module proxy, and the parts that make a host of their own.
func (b *bench) outside(ctx context.Context, wanted []part) error {
	b.say("building the programs and the guest")
	if _, err := testhost.BuildGuest(ctx); err != nil {
		return err
	}
	var err error
	if b.root, err = filepath.Abs(b.root); err != nil {
		return err
	}
	programs, err := rig.Build(ctx, b.root, "bench", false)
	if err != nil {
		return err
	}
	if err := os.Setenv(envPrograms, filepath.Dir(programs.Capsuled)); err != nil {
		return err
	}
	if err := b.machine(); err != nil {
		return err
	}
	return b.run(ctx, wanted, outside)
}

// run runs the parts of one place.
func (b *bench) run(ctx context.Context, wanted []part, at place) error {
	for _, p := range wanted {
		if p.place != at {
			continue
		}
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (b *bench) inside(ctx context.Context, wanted []part) error {
	if err := b.run(ctx, wanted, before); err != nil {
		return err
	}
	if !slices.ContainsFunc(wanted, func(p part) bool { return p.place == beside }) {
		return nil
	}
	d, err := newDaemon(ctx, b.plan)
	if err != nil {
		return err
	}
	defer d.Kill()
	b.d = d
	if err := b.run(ctx, wanted, beside); err != nil {
		return fmt.Errorf("%w\n--- the end of capsuled's log\n%s", err, d.logged())
	}
	return nil
}

// machine says what the figures were made on, and how busy it was.
func (b *bench) machine() error {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return err
	}
	release := strings.Builder{}
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	fmt.Fprintf(b.out, "%d processors, kernel %s, load at the start %s\n",
		bytes.Count(cpus, []byte("processor\t")), release.String(), strings.Join(strings.Fields(string(load))[:3], " "))
	return nil
}
