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
}

var (
	full  = plan{"1|10|100", "40x", "7", 30, 41, []int{0, 200, 1000}, 5, 50}
	quick = plan{"1", "5x", "1", 3, 2, []int{0, 5}, 1, 5}
)

// part is one chapter of the report; those inside share one host and one daemon, and leave no capsule.
type part struct {
	name   string
	inside bool
	run    func(context.Context, *bench) error
}

var parts = []part{
	{"clone", false, clones},
	{"create", true, creations},
	{"launch", true, launches},
	{"scale", true, scale},
}

// bench is a run.
type bench struct {
	plan plan
	root string // of the module
	out  io.Writer
	d    *daemon // only inside
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
	if !slices.ContainsFunc(wanted, func(p part) bool { return p.inside }) {
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
	for _, p := range wanted {
		if p.inside {
			continue
		}
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (b *bench) inside(ctx context.Context, wanted []part) error {
	d, err := newDaemon(ctx, b.plan)
	if err != nil {
		return err
	}
	defer d.Kill()
	b.d = d
	for _, p := range wanted {
		if !p.inside {
			continue
		}
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w\n--- the end of capsuled's log\n%s", p.name, err, d.logged())
		}
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
