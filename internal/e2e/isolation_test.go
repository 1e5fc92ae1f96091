package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// TestIsolation attacks a capsule in secure mode from within and from without, as the isolation contract lists it, row
// by row. What the packets of row 1 to 9 and 21 come to is judged at the end; the other rows are looked at on the way,
// for two guests are all that there are, and booting them takes the longest.
func TestIsolation(t *testing.T) {
	s := newSiege(t)
	s.maintenance()
	if !t.Run("unfenced", func(t *testing.T) {
		s.run(t, "unfenced", unfenced(t, s.program), attacks, func(a attack, s seen) bool {
			return (a.at == "" || s.has(a.at)) && strings.Contains(s.said, a.answer)
		})
	}) {
		t.Fatal("what does not arrive where nothing fences it proves nothing")
	}
	s.run(t, "maintenance", s.field(), attacks, func(a attack, s seen) bool {
		return !a.open || s.has(a.at) && strings.Contains(s.said, a.answer)
	})
	before := s.establish(t)
	s.switchTo("secure")
	before.judge(t)

	s.runDown(t, "secure", s.field())
	s.silence(t)
	s.flushed(t, "secure, IP layer flushed", flushIP)
	s.flushed(t, "secure, bridge layer flushed", flushBridge)
	s.bare(t, "secure, all rules flushed")
	s.mended(t)
	s.rebooted(t)
	s.secrets(t)
	s.policy(t, oneAddress)
	s.ctl("policy", "reload")
	s.proved(t)
	s.run(t, allowed, s.field(), slices.Concat(attacks, exceptions), func(a attack, s seen) bool {
		if a.exception {
			return (a.at == "" || s.has(a.at)) && strings.Contains(s.said, a.answer)
		}
		return sent(a, s)
	})
	s.flushed(t, allowed+", IP layer flushed", flushIP)
	s.forgotten(t)
	for _, a := range attacks {
		t.Run(fmt.Sprintf("row %02d: %s", a.row, a.name), func(t *testing.T) { s.judge(t, a) })
	}
	for _, a := range exceptions {
		t.Run(fmt.Sprintf("row %02d: %s", a.row, a.name), func(t *testing.T) { s.judgeIn(t, allowed, a) })
	}
}

// siege is two capsules under one daemon, the first of them hostile; and all that watches.
type siege struct {
	*host
	program  string // the probe
	policies string // directory
	capture  *capture
	a, b     string                     // capsules; the second stays in maintenance mode
	count    int                        // of volleys, so that every marker is another
	seen     map[string]map[string]seen // phase -> attack -> what became of it
	looks    looks                      // what the guest saw of its machine in maintenance mode
}

// seen is what became of one attack.
type seen struct {
	roles map[string]int // where it turned up, and how often
	said  string         // by the probe
}

func (s seen) has(role string) bool { return s.roles[role] > 0 }

// newSiege boots both guests and puts the probe into them.
func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{policies: t.TempDir(), program: probeProgram(t), seen: map[string]map[string]seen{}}
	s.policy(t, "comment = \"nothing at all\"\nsecure = true\n")
	s.host = startHost(t, fmt.Sprintf("policy.dir = %q", s.policies))
	image := s.image()
	for _, id := range []*string{&s.a, &s.b} {
		*id = s.capsule(image)
		s.ctl("launch", "--wait", *id)
		s.ssh(*id, "true")
		s.upload(t, *id)
	}
	must(command(t, "ip", "addr", "add", "169.254.169.254/32", "dev", "lo"))(t)
	t.Cleanup(func() { _ = exec.Command("ip", "addr", "del", "169.254.169.254/32", "dev", "lo").Run() })
	greeter(t, "", "0.0.0.0:8022")
	for _, port := range []int{7001, 7002, 7443} {
		greeter(t, "world", fmt.Sprintf("%s:%d", testhost.WorldAddr, port))
	}
	s.capture = newCapture(t)
	return s
}

// policy writes the policy of secure mode.
func (s *siege) policy(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.policies, "secure.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// upload puts the probe into a guest, by ssh.
func (s *siege) upload(t *testing.T, id string) {
	t.Helper()
	program, err := os.Open(s.program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	cmd := testhost.World(t.Context(), "ssh", "-i", s.guest.KeyPath, "-p", fmt.Sprint(s.status(id).SSHPort),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
		"root@"+testhost.HostAddr, "cat >"+probePath+" && chmod 755 "+probePath+" && sync")
	cmd.Stdin = program
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("upload: %v: %s", err, out)
	}
}

// switchTo takes the first capsule to a mode.
func (s *siege) switchTo(mode string) {
	s.t.Helper()
	s.ctl("switch", "--wait", s.a, mode)
	s.still(s.t, mode)
}

// still wants the first capsule to run in a mode, proved.
func (s *siege) still(t *testing.T, mode string) {
	t.Helper()
	if st := s.status(s.a); !strings.EqualFold(st.Mode, mode) || st.State != "RUNNING" {
		t.Fatalf("it should run in mode %s: %+v", mode, st)
	}
}

// domain is what libvirt and the kernel call a capsule.
func domain(id string) string { return "cap-" + id[:8] }

// field is that of the two capsules as they are now: a tap is another after every start.
func (s *siege) field() *field { return s.fenced(s.program, s.a, s.b) }

// run sends all attacks in a field and notes what became of each, under the name of the phase. It waits until wait is
// content with every one, and then until everything has gone where it goes.
func (s *siege) run(t *testing.T, name string, f *field, all []attack, wait func(attack, seen) bool) {
	t.Helper()
	s.count++
	s.capture.forget()
	said := probing{}
	for _, from := range []string{"", "next", "world", "host"} {
		maps.Copy(said, f.run[from](run{mark: s.text(), script: f.names.Replace(script(from, all))}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := rig.Until(ctx, func() error {
		for _, a := range all {
			if got := s.became(f, a, said); !wait(a, got) {
				return fmt.Errorf("%s: seen at %v; the probe said %q", a.name, got.roles, got.said)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	s.settle(t)
	s.seen[name] = map[string]seen{}
	for _, a := range all {
		s.seen[name][a.name] = s.became(f, a, said)
	}
	s.capture.complete(t)
}

// text is what the markers of a volley begin and end with.
func (s *siege) text() string { return fmt.Sprintf("v%dv", s.count) }

// script is what one of the senders is told.
func script(from string, all []attack) string {
	var b strings.Builder
	switch from { // nobody who attacks waits for an answer to ARP
	case "", "next":
		b.WriteString("gateway neighbour ip={gw} mac={gwmac}\n")
	case "host":
		b.WriteString("target neighbour ip={self} mac={selfmac}\n")
	}
	for _, a := range all {
		if a.from == from {
			fmt.Fprintf(&b, "%s %s\n", a.name, a.does)
		}
	}
	return b.String()
}

func (s *siege) became(f *field, a attack, said probing) seen {
	got := seen{map[string]int{}, said[a.name]}
	for where, n := range s.capture.places(s.text() + "-" + a.name + "-" + s.text()) {
		role, known := f.roles[where]
		if !known {
			role = where
		}
		got.roles[role] += n
	}
	return got
}

// settle waits until what was sent before has gone where it goes. A frame that a tap has taken in is judged and handed
// on at once, on the same processor (tun_get_user); only the wire to the outside world has a queue, one for each
// processor. What is sent on each of them later, and has arrived, had all the rest before it.
func (s *siege) settle(t *testing.T) {
	t.Helper()
	for cpu := range runtime.NumCPU() {
		mark := fmt.Sprintf("%sc%d", s.text(), cpu)
		cmd := exec.CommandContext(t.Context(), "taskset", "-c", fmt.Sprint(cpu), s.program, "-i", testhost.Uplink, "-mark", mark)
		cmd.Stdin = strings.NewReader("last udp to=" + testhost.WorldAddr + ":7000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		s.arrived(t, mark+"-last-"+mark, "world:"+testhost.WorldUplink+" in")
	}
	s.capture.drain(t)
}

// arrived waits until a marker has been seen somewhere.
func (s *siege) arrived(t *testing.T, mark, where string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if places := s.capture.places(mark); places[where] == 0 {
			return fmt.Errorf("%s is not at %s but at %v", mark, where, places)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// sent waits for evidence that an attack was made at all: it was seen on the attacker's own port.
func sent(a attack, s seen) bool { return a.stack || a.from != "" || s.has(left) }

const allowed = "one address allowed"

// may says in which roles an attack may be seen in a phase.
var may = map[string]func(attack) []string{
	"secure":                   noRole,
	"secure, IP layer flushed": noRole,
	// The host's kernel hears what the bridge would have dropped, and hands nothing on.
	"secure, bridge layer flushed": func(attack) []string { return []string{bridge} },
	"secure, all rules flushed":    noRole,
	"secure, rebooted":             noRole,
	allowed:                        func(a attack) []string { return a.allowed },
	allowed + ", IP layer flushed": func(a attack) []string { return a.allowed },
}

func noRole(attack) []string { return nil }

// judge wants an attack to arrive where nothing fences it, and nowhere in secure mode.
func (s *siege) judge(t *testing.T, a attack) {
	if got := s.seen["unfenced"][a.name]; a.at != "" && !got.has(a.at) {
		t.Errorf("unfenced: it was seen at %v, and should be at %s", got.roles, a.at)
	}
	if got := s.seen["maintenance"][a.name]; a.open && !got.has(a.at) {
		t.Errorf("maintenance: it was seen at %v, and should be at %s", got.roles, a.at)
	}
	for _, name := range slices.Sorted(maps.Keys(may)) {
		s.judgeIn(t, name, a)
	}
}

// judgeIn wants an attack in no role but those where it may be in one phase. Others than the domain itself are seen
// where they stand; theirs must not get in.
func (s *siege) judgeIn(t *testing.T, name string, a attack) {
	t.Helper()
	got, ok := s.seen[name][a.name]
	if !ok {
		t.Errorf("%s: it was not tried", name)
	}
	for _, role := range slices.Sorted(maps.Keys(got.roles)) {
		if role == left || a.from != "" && role != back {
			continue
		}
		if !slices.Contains(may[name](a), role) {
			t.Errorf("%s: it got to %s (%d packets)", name, role, got.roles[role])
		}
	}
	if a.answer != "" && !a.exception && strings.Contains(got.said, a.answer) {
		t.Errorf("%s: it was answered: %s", name, got.said)
	}
}
