package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
)

const (
	nothingPasses = "comment = \"nothing\"\nsecure = true\n"
	onePasses     = "comment = \"one\"\nsecure = true\n\n[[rule]]\nprotocol = \"tcp\"\npeers = [\"198.51.100.2\"]\nports = [\"9000\"]\n"
)

var (
	shut   = rig.Fences{IPv4: rig.Closed, IPv6: rig.Closed, Bridge: rig.Closed, Link: rig.Closed}
	listed = rig.Fences{IPv4: rig.Listed, IPv6: rig.Closed, Bridge: rig.Listed, Link: rig.Gone}
)

// TestSecureRules takes rules away and changes policies around a capsule in secure mode, which goes on; and shows that
// the sampler beside all these tests does see what it is there for.
func TestSecureRules(t *testing.T) {
	dir := t.TempDir()
	policy := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	policy("secure", nothingPasses)
	policy("secure-full", onePasses)
	v := newVault(t, fmt.Sprintf("policy.dir = %q", dir))
	v.ssh(v.id, "true")
	v.beacon()
	v.secure()
	v.inside("echo ram >/tmp/ram")
	for _, flush := range [][]string{
		{"iptables", "-w", "-F"},
		{"iptables", "-w", "-t", "raw", "-F"},
		{"iptables", "-w", "-D", "FORWARD", "1"},
		{"ip6tables", "-w", "-F"},
		{"nft", "delete", "table", "bridge", "capsuled"},
		{"nft", "delete", "element", "bridge", "capsuled", "from", "{", v.domain, "}"},
		{"nft", "flush", "chain", "bridge", "capsuled", "prerouting"},
	} {
		v.run(strings.Join(flush, " "), func() { v.mended(flush) })
	}
	v.run("every rule of the kernel", func() { v.mended([]string{"nft", "flush", "ruleset"}) })
	v.run("the link", v.linkUp)
	v.run("policies", func() { v.policies(policy) })
	v.run("the sampler complains", v.complains)
	v.run("libvirt's network restarted", v.networkRestarted)
	v.maintenance()
	v.hears()
	if left := v.ssh(v.id, "ls /tmp/ram 2>/dev/null || true"); left != "" {
		t.Errorf("RAM of secure mode is still there: %s", left)
	}
}

// mended takes rules away and waits until they are back: the capsule goes on, and the audit trail has it.
func (v *vault) mended(flush []string) {
	v.t.Helper()
	before := v.audited("restore-firewall")
	must(command(v.t, flush[0], flush[1:]...))(v.t)
	began := time.Now()
	v.until("the rules to come back", func() error {
		f, err := rig.ReadFences(v.t.Context(), v.domain, v.address)
		if err == nil && f != shut {
			err = fmt.Errorf("%s", f)
		}
		return err
	})
	v.t.Logf("back after %v", time.Since(began).Round(time.Millisecond))
	v.until("a row in the audit trail", func() error {
		if v.audited("restore-firewall") == before {
			return fmt.Errorf("%d rows, as before", before)
		}
		return nil
	})
	v.until("a proof", func() error { _, err := v.Ctl(v.t.Context(), "prove", v.id); return err })
	v.is("RUNNING", "SECURE")
	if got := v.inside("cat /tmp/ram"); got != "ram" {
		v.t.Errorf("the guest did not go on: %q", got)
	}
}

// linkUp takes the tap of a closed capsule up: it is down again at once, and no rule has to change for that.
func (v *vault) linkUp() {
	must(command(v.t, "ip", "link", "set", v.domain, "up"))(v.t)
	v.until("the link to go down", func() error {
		if f := v.fences(); f != shut {
			return fmt.Errorf("%s", f)
		}
		return nil
	})
	v.until("a proof", func() error { _, err := v.Ctl(v.t.Context(), "prove", v.id); return err })
	v.is("RUNNING", "SECURE")
}

// audited is how many rows the audit trail has of an action that succeeded.
func (v *vault) audited(action string) (n int) {
	v.t.Helper()
	v.records(func(db *sql.DB) error {
		return db.QueryRow("SELECT count(*) FROM audit WHERE action = ? AND outcome = 'succeeded'", action).Scan(&n)
	})
	return n
}

// records gives access to the daemon's records.
func (v *vault) records(do func(*sql.DB) error) {
	v.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(v.dir, "capsuled.db")+"?_busy_timeout=10000")
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := do(db); err != nil {
		v.t.Fatal(err)
	}
}

// policies changes the policy of a capsule in secure mode, by its file and by its type. Each is in force when the
// command returns.
func (v *vault) policies(write func(name, text string)) {
	t := v.t
	want := func(what string, f rig.Fences) {
		t.Helper()
		if got := v.fences(); got != f {
			t.Errorf("%s: %s, and should be: %s", what, got, f)
		}
		v.is("RUNNING", "SECURE")
		v.until("a proof", func() error { _, err := v.Ctl(t.Context(), "prove", v.id); return err })
	}
	for what, wrong := range map[string]string{
		"no TOML":               "comment = ",
		"not for data":          "comment = \"open\"\nsecure = false\n[[rule]]\nprotocol = \"any\"\npeers = [\"anywhere\"]\n",
		"anywhere while secure": "comment = \"open\"\nsecure = true\n[[rule]]\nprotocol = \"any\"\npeers = [\"anywhere\"]\n",
	} {
		write("secure", wrong)
		if out, err := v.Ctl(t.Context(), "policy", "reload"); err == nil {
			t.Errorf("%s: it is taken: %s", what, out)
		}
		want(what, shut)
	}
	write("secure", onePasses)
	want("a file that nobody asked to be read", shut)
	v.ctl("policy", "reload")
	want("one address", listed)
	write("secure", nothingPasses)
	v.ctl("policy", "reload")
	want("none", shut)
	v.ctl("set", v.id, "--type", "RESEARCH-FULL")
	want("RESEARCH-FULL", listed)
	v.ctl("set", v.id, "--type", "RESEARCH")
	want("RESEARCH", shut)
}

// complains opens the fence while no daemon is there to close it: the sampler must say so, of each layer alone and of
// all that come out when there is none. With no rule left the link alone lets nothing out.
func (v *vault) complains() {
	t := v.t
	v.Kill()
	seen := func(what string, wrong func(rig.Findings) bool, commands ...[]string) {
		t.Helper()
		v.next(func(f rig.Findings) {
			if !wrong(f) {
				v.t.Errorf("%s: the sampler has seen nothing: %s", what, few(f.Told))
			}
		})
		for _, c := range commands {
			must(command(t, c[0], c[1:]...))(t)
		}
		v.looked()
	}
	open := func(f rig.Findings) bool { return len(f.Open) > 0 }
	seen("IPv4", open, []string{"iptables", "-w", "-I", "FORWARD", "1", "-i", "capsbr0", "-j", "ACCEPT"})
	seen("IPv6", open, []string{"iptables", "-w", "-D", "FORWARD", "1"}, []string{"ip6tables", "-w", "-I", "INPUT", "1", "-j", "ACCEPT"})
	seen("bridge", open, []string{"ip6tables", "-w", "-D", "INPUT", "1"},
		[]string{"nft", "insert", "rule", "bridge", "capsuled", "prerouting", "ether", "type", "ip", "goto", "admit"})
	v.next(anything)
	must(command(t, "nft", "flush", "ruleset"))(t)
	v.next(v.safe)
	v.looked()
	v.refusedFrames(20) // the link is the one layer that is left
	seen("no layer", func(f rig.Findings) bool { return len(f.Bare) > 0 && len(f.Loose) > 0 }, []string{"ip", "link", "set", v.domain, "up"})
	v.next(anything) // it is open until the daemon has closed it
	v.start()
	v.until("a proof", func() error { _, err := v.Ctl(t.Context(), "prove", v.id); return err })
	v.next(v.safe)
	v.is("RUNNING", "SECURE")
}

// refusedFrames waits until the guest has sent some frames that its tap did not take.
func (v *vault) refusedFrames(some int) {
	v.t.Helper()
	count := func() (n int) {
		text := must(command(v.t, "cat", "/sys/class/net/"+v.domain+"/statistics/rx_dropped"))(v.t)
		if _, err := fmt.Sscan(text, &n); err != nil {
			v.t.Fatal(err)
		}
		return n
	}
	before := count()
	v.until("frames that are refused", func() error {
		if n := count() - before; n < some {
			return fmt.Errorf("%d of %d", n, some)
		}
		return nil
	})
}

// looked waits until the sampler has looked some times more, and a guest that can get out has.
func (v *vault) looked() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	_, before := v.sampler.Present()
	heard := v.sampler.Heard()
	if err := rig.Until(ctx, func() error {
		_, now := v.sampler.Present()
		if what := v.fences(); now < before+10 || what.IPv4 == rig.Gone && what.Link == rig.Gone && v.sampler.Heard() < heard+10 {
			return fmt.Errorf("%d looks, %d beacons, %s", now-before, v.sampler.Heard()-heard, what)
		}
		return nil
	}); err != nil {
		v.t.Fatal(err)
	}
}

// networkRestarted restarts libvirt's network: the bridge is another one, and the capsule's tap is on none. It is held, and
// the proof says why; when the tap is on the bridge again it is isolated, and the capsule goes on.
func (v *vault) networkRestarted() {
	closed := func(what string) {
		v.t.Helper()
		if f := v.fences(); f != shut {
			v.t.Errorf("%s: %s", what, f)
		}
	}
	virsh(v.t, "net-destroy", "capsules")
	virsh(v.t, "net-start", "capsules")
	v.until("the hold", func() error {
		if st := v.status(v.id); st.State != "ERROR" {
			return fmt.Errorf("it is %s", st.State)
		}
		return nil
	})
	v.settle()
	v.is("ERROR", "SECURE")
	closed("held")
	v.refused(11, "on no bridge, should be on capsbr0", "prove", v.id)
	must(command(v.t, "ip", "link", "set", v.domain, "master", "capsbr0"))(v.t)
	v.until("a proof", func() error { _, err := v.Ctl(v.t.Context(), "prove", v.id); return err })
	if isolated := must(command(v.t, "cat", "/sys/class/net/"+v.domain+"/brport/isolated"))(v.t); isolated != "1" {
		v.t.Errorf("isolated: %q", isolated)
	}
	v.resumed()
	v.is("RUNNING", "SECURE")
	closed("resumed")
}
