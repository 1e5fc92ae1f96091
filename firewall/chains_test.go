package firewall

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) { testhost.Main(m) }

// fatal is what testing.T and rapid.T have in common.
type fatal interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// run runs a program of the host and gives what it said.
func run(t fatal, ctx context.Context, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr // apart: iptables warns about tables of its other backend
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	return stdout.String()
}

var (
	comments = regexp.MustCompile(`(?m)^#.*\n`)
	packets  = regexp.MustCompile(`packets \d+ bytes \d+`)
	counters = regexp.MustCompile(`\[\d+:\d+\]`)
)

// kernel is the text of all rules of the host, ours and others', without dates and counters. The chains of a table of
// nft are put in order: in a listing they stand as they were made.
func kernel(t fatal, ctx context.Context) string {
	t.Helper()
	text := run(t, ctx, "iptables-save") + run(t, ctx, "ip6tables-save")
	for _, table := range strings.Split(strings.TrimSpace(run(t, ctx, "nft", "list", "tables", "bridge")), "\n") {
		if table != "" {
			list := run(t, ctx, append([]string{"nft", "--stateless", "list"}, strings.Fields(table)...)...)
			head, body, _ := strings.Cut(strings.TrimSuffix(list, "}\n"), "\n")
			blocks := strings.Split(strings.TrimSpace(body), "\n\n")
			for i := range blocks {
				blocks[i] = strings.TrimSpace(blocks[i])
			}
			slices.Sort(blocks)
			text += head + "\n" + strings.Join(blocks, "\n\n") + "\n}\n"
		}
	}
	return counters.ReplaceAllString(comments.ReplaceAllString(text, ""), "")
}

// clean takes all rules away.
func clean(t fatal, ctx context.Context) {
	t.Helper()
	run(t, ctx, "nft", "flush", "ruleset")
}

// fresh is a Chains on a host without rules.
func fresh(t *testing.T, o Options) *Chains {
	t.Helper()
	clean(t, t.Context())
	t.Cleanup(func() { clean(t, context.Background()) })
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func apply(t fatal, ctx context.Context, c *Chains, all []Binding) {
	t.Helper()
	if err := c.Apply(ctx, all); err != nil {
		t.Fatal(err)
	}
	wantVerified(t, ctx, c)
	for _, b := range all {
		awaitPort(t, b.Tap)
	}
}

// awaitPort waits until the port of a link that is up passes frames on: the kernel notices a carrier up to a second later
// (linkwatch), and a frame that is sent before is lost.
func awaitPort(t fatal, tap string) {
	t.Helper()
	const forwarding = "3" // BR_STATE_FORWARDING
	if _, err := os.Stat("/sys/class/net/" + tap + "/tun_flags"); err == nil {
		return // nobody holds it: there is no carrier
	}
	for deadline := time.Now().Add(waitSeconds * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(tap)
		if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
			return
		}
		state, err := os.ReadFile("/sys/class/net/" + tap + "/brport/state")
		if err != nil || strings.TrimSpace(string(state)) == forwarding {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(tap + " is up, and its port does not forward")
		}
	}
}

// wantVerified wants rules, links and ports to be as they should be. Settings are another matter: a site has those that
// its probes need.
func wantVerified(t fatal, ctx context.Context, c *Chains) {
	t.Helper()
	diffs, err := c.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	diffs = withoutSettings(diffs)
	if len(diffs) > 0 {
		t.Fatalf("the kernel differs:\n%s", strings.Join(diffs, "\n"))
	}
}

func withoutSettings(diffs []string) []string {
	return slices.DeleteFunc(diffs, func(d string) bool { return strings.HasPrefix(d, "sysctl: ") })
}

func wantNoticed(t fatal, ctx context.Context, c *Chains, words ...string) {
	t.Helper()
	diffs, err := c.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range words {
		if !slices.ContainsFunc(diffs, func(d string) bool { return strings.Contains(d, w) }) {
			t.Errorf("nobody noticed %q in:\n%s", w, strings.Join(diffs, "\n"))
		}
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	for _, n := range []int{0, 1, 3, 300} {
		o := options("192.168.48.0/20")
		c := fresh(t, o)
		apply(t, t.Context(), c, bindings(o, n))
		first := kernel(t, t.Context())
		apply(t, t.Context(), c, bindings(o, n))
		if diff := cmp.Diff(first, kernel(t, t.Context())); diff != "" {
			t.Errorf("%d bindings: the second Apply changed:\n%s", n, diff)
		}
		// A daemon that starts anew finds everything as it should be.
		again, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		handles := packets.ReplaceAllString(run(t, t.Context(), "nft", "-a", "list", "ruleset"), "")
		apply(t, t.Context(), again, bindings(o, n))
		if diff := cmp.Diff(handles, packets.ReplaceAllString(run(t, t.Context(), "nft", "-a", "list", "ruleset"), "")); diff != "" {
			t.Errorf("%d bindings: a new process changed:\n%s", n, diff)
		}
	}
}

func TestNewChangesNothing(t *testing.T) {
	clean(t, t.Context())
	if _, err := New(options("192.168.53.0/24")); err != nil {
		t.Fatal(err)
	}
	if got := run(t, t.Context(), "nft", "list", "ruleset"); got != "" {
		t.Errorf("the kernel has now:\n%s", got)
	}
}

// Any order of single changes ends where one Apply ends.
func TestRandomOrderEndsAlike(t *testing.T) {
	o := options("192.168.48.0/20")
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		clean(rt, ctx)
		c, err := New(o)
		if err != nil {
			rt.Fatal(err)
		}
		pool := bindings(o, 40)
		if err := c.Apply(ctx, pool[:rapid.IntRange(0, 4).Draw(rt, "start")]); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			b := pool[rapid.IntRange(0, 8).Draw(rt, "which")]
			switch rapid.SampledFrom([]string{"open", "close", "move", "drop", "lose"}).Draw(rt, "what") {
			case "open":
				b.Policy = maintenance.Name
				err = c.Put(ctx, b)
			case "close":
				err = c.Put(ctx, b.closed())
			case "move": // to an address, MAC and port of its own
				to := pool[len(pool)-1-slices.IndexFunc(pool, func(p Binding) bool { return p.Tap == b.Tap })]
				b.IP, b.MAC, b.SSHPort = to.IP, to.MAC, to.SSHPort
				err = c.Put(ctx, b)
			case "drop":
				err = c.Drop(ctx, b.Tap)
			case "lose": // somebody takes a layer away
				run(rt, ctx, "nft", rapid.SampledFrom([]string{
					"delete table bridge capsuled", "flush ruleset", "add table ip filter; flush table ip filter",
				}).Draw(rt, "of"))
				err = c.Apply(ctx, c.want.all())
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		got := kernel(rt, ctx)
		wantVerified(rt, ctx, c)
		all := c.want.all()
		clean(rt, ctx)
		if err := c.Apply(ctx, all); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(kernel(rt, ctx), got); diff != "" {
			rt.Fatalf("single changes end elsewhere (-apply +changes):\n%s", diff)
		}
	})
}

// foreign are rules such as firewalld, Docker or an operator leave: none may move or go.
func foreign(t *testing.T) {
	t.Helper()
	for _, rule := range []string{
		"-t filter -P FORWARD DROP",
		"-t filter -N DOCKER-USER",
		"-t filter -A FORWARD -j DOCKER-USER",
		"-t filter -A INPUT -p tcp --dport 9999 -j DROP",
		"-t filter -A INPUT -i capsbr0 -j ACCEPT",
		"-t nat -A POSTROUTING -s 10.9.9.0/24 -j MASQUERADE",
		"-t nat -A PREROUTING -p tcp --dport 16000 -j DNAT --to-destination 10.9.9.9:1",
		"-t raw -A PREROUTING -s 203.0.113.9 -j DROP",
		"-t mangle -A FORWARD -p tcp -j MARK --set-mark 7",
	} {
		run(t, t.Context(), append([]string{"iptables"}, strings.Fields(rule)...)...)
	}
	run(t, t.Context(), "nft", "add table bridge theirs; add chain bridge theirs x { type filter hook forward priority 0; }; add rule bridge theirs x iifname eth7 drop")
}

func TestForeignRulesSurvive(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	foreign(t)
	theirs := kernel(t, t.Context())
	all := bindings(o, 5)
	apply(t, t.Context(), c, all)
	if err := c.Put(t.Context(), all[1].closed()); err != nil {
		t.Fatal(err)
	}
	if err := c.Drop(t.Context(), all[0].Tap); err != nil {
		t.Fatal(err)
	}
	got := kernel(t, t.Context())
	lines := strings.Split(got, "\n")
	i := 0
	for _, want := range strings.Split(theirs, "\n") { // all of theirs, in their order
		for i < len(lines) && lines[i] != want {
			i++
		}
		if i == len(lines) {
			t.Fatalf("lost %q from:\n%s", want, got)
		}
		i++
	}
}

func TestDriftIsNoticedAndRepaired(t *testing.T) {
	for _, d := range []struct {
		name   string
		do     []string
		notice []string
	}{
		{"jump no longer first", []string{"iptables", "-I", "FORWARD", "1", "-j", "ACCEPT"}, []string{"the jump of FORWARD"}},
		{"jump twice", []string{"iptables", "-A", "INPUT", "-j", "CAPSULED-INPUT"}, []string{"the jump of INPUT"}},
		{"jump gone", []string{"iptables", "-t", "nat", "-D", "POSTROUTING", "-j", "CAPSULED-POSTROUTING"}, []string{"POSTROUTING does not jump"}},
		{"filter flushed", []string{"iptables", "-F"}, []string{"FORWARD does not jump", "CAPSULED-HOST rule 1"}},
		{"IPv6 flushed", []string{"ip6tables", "-F"}, []string{"ipv6 filter: INPUT does not jump"}},
		{"raw flushed", []string{"iptables", "-t", "raw", "-F"}, []string{"ipv4 raw"}},
		{"bridge table gone", []string{"nft", "delete", "table", "bridge", "capsuled"}, []string{"bridge: table bridge capsuled is missing"}},
		{"bridge table emptied", []string{"nft", "flush", "table", "bridge", "capsuled"}, []string{"chain forward"}},
		{"bridge chain weakened", []string{"nft", "insert", "rule", "bridge", "capsuled", "p_maintenance_from", "accept"}, []string{"chain p_maintenance_from"}},
		{"everything gone", []string{"nft", "flush", "ruleset"}, []string{"bridge: table", "ipv4 filter", "ipv4 nat", "ipv6"}},
		{"set emptied", []string{"nft", "flush", "set", "bridge", "capsuled", "addrs"}, []string{"addrs lacks"}},
		{"element added", []string{"nft", "add", "element", "bridge", "capsuled", "addrs", `{ "cap-x" . 02:00:00:00:00:09 . 192.168.53.99 }`},
			[]string{`addrs has "cap-x"`}},
		{"rule weakened", []string{"iptables", "-I", "CAPSULED-HOST", "1", "-j", "ACCEPT"}, []string{`CAPSULED-HOST rule 1 is "-j ACCEPT"`}},
		{"chain left over", []string{"iptables", "-N", "CAPSULED-cap-old-h"}, []string{"CAPSULED-cap-old-h belongs to nothing"}},
	} {
		t.Run(d.name, func(t *testing.T) {
			o := options("192.168.53.0/24")
			c := fresh(t, o)
			all := bindings(o, 6)
			apply(t, t.Context(), c, all)
			before := kernel(t, t.Context())
			run(t, t.Context(), d.do...)
			wantNoticed(t, t.Context(), c, d.notice...)
			apply(t, t.Context(), c, all)
			if d.name == "jump no longer first" { // the other's rule stays, behind ours
				run(t, t.Context(), "iptables", "-D", "FORWARD", "-j", "ACCEPT")
			}
			if diff := cmp.Diff(before, kernel(t, t.Context())); diff != "" {
				t.Errorf("after repair (-before +after):\n%s", diff)
			}
		})
	}
}

// Who cannot say what should be has back what was.
func TestReapply(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	if err := c.Reapply(t.Context()); !errors.Is(err, ErrInvalid) {
		t.Errorf("before the first Apply: %v", err)
	}
	apply(t, t.Context(), c, bindings(o, 6))
	before := kernel(t, t.Context())
	run(t, t.Context(), "nft", "flush", "ruleset")
	if err := c.Reapply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, kernel(t, t.Context())); diff != "" {
		t.Errorf("after repair (-before +after):\n%s", diff)
	}
}

// A single change puts the jumps first again too: it must never open a tap behind a flushed table.
func TestPutSeesFlushedTable(t *testing.T) {
	o := options("192.168.53.0/24")
	for _, spoil := range [][]string{
		{"iptables", "-F"}, {"iptables", "-D", "INPUT", "-j", "CAPSULED-INPUT"}, {"nft", "flush", "ruleset"},
		{"nft", "delete", "table", "bridge", "capsuled"}, {"iptables", "-I", "FORWARD", "-j", "ACCEPT"},
	} {
		c := fresh(t, o)
		all := bindings(o, 3)
		apply(t, t.Context(), c, all[:2])
		run(t, t.Context(), spoil...)
		if err := c.Put(t.Context(), all[2]); err != nil {
			t.Fatal(err)
		}
		wantVerified(t, t.Context(), c)
	}
}

func TestDropLeavesNothing(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	apply(t, t.Context(), c, nil)
	none := kernel(t, t.Context())
	all := bindings(o, 4)
	for _, b := range all {
		if err := c.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range all {
		for range 2 { // absent is nil
			if err := c.Drop(t.Context(), b.Tap); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(none, kernel(t, t.Context())); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestChangesBeforeApplyAreRefused(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	if err := c.Put(t.Context(), bindings(o, 1)[0]); !errors.Is(err, ErrInvalid) {
		t.Errorf("put: %v", err)
	}
	if err := c.Drop(t.Context(), "cap-x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("drop: %v", err)
	}
	if got := kernel(t, t.Context()); strings.Contains(got, "CAPSULED") {
		t.Errorf("the kernel has now:\n%s", got)
	}
}

func TestInvalidPutChangesNothing(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 2)
	apply(t, t.Context(), c, all)
	before := kernel(t, t.Context())
	thief := all[0]
	thief.Tap = "cap-thief"
	if err := c.Put(t.Context(), thief); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if err := c.Apply(t.Context(), append(all, thief)); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, kernel(t, t.Context())); diff != "" {
		t.Error(diff)
	}
	wantVerified(t, t.Context(), c)
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := New(options("192.168.53.0/24")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestDeadlineIsKept(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Apply(ctx, bindings(o, 1))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrUnavailable and context.Canceled", err)
	}
}

func TestMetricsRegisterOnce(t *testing.T) {
	o := options("192.168.53.0/24")
	o.Registerer = prometheus.NewRegistry()
	if _, err := New(o); err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); !errors.Is(err, ErrInvalid) {
		t.Errorf("the same series twice: %v", err)
	}
}
