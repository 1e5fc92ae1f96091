package domain_test

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
)

// requests are all that is ever asked of a guest.
func requests(h *domain.Host, id domain.ID) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"mounts": func(ctx context.Context) error { _, err := h.GuestMounts(ctx, id); return err },
		"mount": func(ctx context.Context) error {
			return h.GuestMount(ctx, id, []domain.Mount{{Serial: "data", Path: "/media/data"}})
		},
		"freeze": func(ctx context.Context) error { _, err := h.Freeze(ctx, id); return err },
		"thaw":   func(ctx context.Context) error { _, err := h.Thaw(ctx, id); return err },
		"clock":  func(ctx context.Context) error { return h.SetClock(ctx, id, time.Now()) },
	}
}

// TestNoAgent: a guest without an agent, one that is paused, one that is off and one that is not there.
func TestNoAgent(t *testing.T) {
	h := open(t)
	s := newSpec(t, h, "cap-mute", idle)
	all := func(what string, want error) {
		for name, ask := range requests(h, s.ID) {
			err := ask(t.Context())
			wantErr(t, what+": "+name, err, want)
			if errors.Is(err, domain.ErrUnavailable) {
				t.Errorf("%s: %s: libvirt is there: %v", what, name, err)
			}
		}
	}
	all("absent", domain.ErrNotFound)
	noErr(t, "network", h.EnsureNetwork(t.Context(), capsNet))
	noErr(t, "define", h.Define(t.Context(), s))
	all("off", domain.ErrConflict)
	noErr(t, "start", h.Start(t.Context(), s.ID))
	all("no agent", domain.ErrUnresponsive)
	for name, mount := range map[string]domain.Mount{
		"no serial": {Path: "/media/x"}, "serial": {Serial: "a b", Path: "/media/x"}, "quote": {Serial: "x", Path: "/media/'x"},
		"dots": {Serial: "x", Path: "/media/../etc"}, "relative": {Serial: "x", Path: "media"}, "root": {Serial: "x", Path: "/"},
		"option": {Serial: "x", Label: "-x", Path: "/media/x"}, "owner": {Serial: "x", Path: "/media/x", Owner: "a:b"}, "newline": {Serial: "x", Path: "/media/x\n"},
	} {
		wantErr(t, name, h.GuestMount(t.Context(), s.ID, []domain.Mount{mount}), domain.ErrInvalid)
	}
}

// hostile replaces the guest's agent by a script that knows guest-sync, and answers everything else as it pleases:
// the n-th time that a command comes, by its n-th line in answers, with nothing where there is none. After each it
// closes the port and opens it again, for libvirt has done with an agent that made no sense.
func hostile(t *testing.T, name string, answers map[string][]string) {
	t.Helper()
	var script strings.Builder
	script.WriteString(`exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0
n() { c=$(cat /run/n.$1 2>/dev/null || echo 0); echo $((c + 1)) >/run/n.$1; echo $1.$c; }
while :; do IFS= read -r line <&3 || { usleep 100000; continue; } # nobody is at the other end yet
case $line in
*guest-sync*) id=${line##*:}; id=${id%%\}*}; printf '{"return":%s}\n' $id >&3;;
*guest-hostile*) echo '{"return":"here"}' >&3;;
`)
	for command, list := range answers {
		script.WriteString("*'\"" + command + "\"'*) case $(n " + command + ") in\n")
		for i, a := range list {
			script.WriteString(command + "." + string(rune('0'+i)) + ") " + a + " >&3;;\n")
		}
		end := "sleep 1; exit"
		if command == "guest-exec" {
			end = ":" // guest-exec-status comes next
		}
		script.WriteString("esac; " + end + ";;\n")
	}
	script.WriteString("esac; done\n")
	encoded := base64.StdEncoding.EncodeToString([]byte(script.String()))
	inGuest(t, name, "echo "+encoded+" | base64 -d >/run/agent; echo 'sleep 1; killall qemu-ga; while :; do sh /run/agent; sleep 1; done' >/run/agents\n"+
		"setsid sh /run/agents </dev/null >/dev/null 2>&1 &")
}

// awaitHostile waits until the script is there.
func awaitHostile(t *testing.T, name string) {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		out := sh(t, "sh", "-c", `sleep 0.2; virsh -q -c qemu:///system qemu-agent-command "$0" '{"execute":"guest-hostile"}' 2>&1 || true`, name)
		if strings.Contains(out, "here") {
			return
		}
	}
	t.Fatal("the other agent never came")
}

// TestHostileAgent: whatever the guest answers, or leaves unanswered, is an error that says so, in bounded time, and
// none of the guest's own characters but what can be printed.
func TestHostileAgent(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := guestSpec(t, h, "cap-liar", testhost.Guest(t))
	booted(t, h, s)
	data := newVolume(t, s, "data")
	noErr(t, "attach", h.Attach(ctx, s.ID, data))
	err := h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "none", Path: "/media/none"}, {Serial: "data", Path: "/media/data"}, {Serial: "data", Path: "/proc/no"}})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "no such disk") || !strings.Contains(err.Error(), "/proc/no") || strings.Contains(err.Error(), "/media/data") {
		t.Errorf("mounts, of which one works: %v", err)
	}
	options := inGuest(t, s.Name, "grep ' /media/data ' /proc/mounts")
	if !strings.Contains(options, "nosuid") || !strings.Contains(options, "nodev") {
		t.Errorf("mounted as %s", options)
	}
	checkNIC(t, h, s)

	huge := `{ printf '{"return":[{"mountpoint":"/'; head -c %s /dev/zero | tr '\0' a; printf '"}]}\n'; }`
	hostile(t, s.Name, map[string][]string{
		"guest-get-fsinfo": {
			`printf '\033[31mgarbage\n{"return":\n'`,
			`printf '{"return":"x"}\n'`,
			`printf '{"return":[{"mountpoint":7}]}\n'`,
			`printf '{"error":{"class":"X","desc":"\\u001b]0;pwned\\u0007%%s%%n"}}\n'`,
			strings.Replace(huge, "%s", "1000000", 1),
			strings.Replace(huge, "%s", "6000000", 1),
			`printf '{"return":[{"mountpoint":"/x\\u0007","disk":[]},{"mountpoint":"/ok","disk":[{"pci-controller":{"bus":-1,"slot":99999,"domain":1000,"function":0}},{"serial":"data"}]}]}\n'`,
			`printf '{}\n'`,
			strings.Replace(huge, "%s", "12000000", 1),
		},
		"guest-exec":            {`printf '{"return":{"pid":"x"}}\n'`, `printf '{"return":{}}\n'`, `printf '{"return":{"pid":1}}\n'`, `printf '{"return":{"pid":1}}\n'`},
		"guest-exec-status":     {`printf '{"return":{"pid":1}}\n'`, `printf '{"return":{"exited":true,"exitcode":77,"out-data":"AAAA"}}\n'`},
		"guest-fsfreeze-freeze": {`printf '{"return":-5}\n'`, `printf '{"return":99999999999999999999999}\n'`},
		"guest-fsfreeze-thaw":   {`{ yes x | head -c 100000; echo; }`},
	})
	ask := requests(h, s.ID)
	for _, row := range []struct {
		name string
		want error
	}{
		{"mounts", domain.ErrUnresponsive}, // garbage
		{"mounts", domain.ErrUnresponsive}, // another type
		{"mounts", domain.ErrUnresponsive}, // another type inside
		{"mounts", domain.ErrRefused},      // an error with control characters
		{"mounts", domain.ErrUnresponsive}, // 1 MB
		{"mounts", domain.ErrUnresponsive}, // 6 MB
		{"mounts", nil},                    // nonsense in the right shape
		{"mounts", domain.ErrUnresponsive}, // no result
		{"mount", domain.ErrUnresponsive},  // no number
		{"mount", domain.ErrUnresponsive},  // no pid
		{"mount", domain.ErrUnresponsive},  // no status
		{"mount", domain.ErrRefused},       // a code that nobody knows
		{"freeze", nil},
		{"freeze", domain.ErrUnresponsive},
		{"thaw", domain.ErrUnresponsive},   // not JSON
		{"clock", domain.ErrUnresponsive},  // never
		{"mounts", domain.ErrUnresponsive}, // 12 MB
	} {
		awaitHostile(t, s.Name)
		since := time.Now()
		err := ask[row.name](ctx)
		t.Logf("%s after %v: %v", row.name, time.Since(since), err)
		if !errors.Is(err, row.want) || errors.Is(err, domain.ErrUnavailable) {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
		if err != nil && (len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("%s: %d bytes: %q", row.name, len(err.Error()), err)
		}
	}
	noErr(t, "connected", h.Connected())
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
}

// checkNIC: the guest has nothing to eject its interface with, but has for another device.
func checkNIC(t *testing.T, h *domain.Host, s domain.Spec) {
	t.Helper()
	slots := strings.Fields(inGuest(t, s.Name, "cat /sys/bus/pci/slots/*/address"))
	if slices.Contains(slots, "0000:01:00") || !slices.Contains(slots, "0000:05:00") {
		t.Errorf("the guest can eject %v", slots)
	}
	inGuest(t, s.Name, "for s in /sys/bus/pci/slots/*; do case $(cat $s/address) in 0000:01:00|0000:05:00) echo 0 >$s/power;; esac; done; sleep 1")
	live := virsh(t, "dumpxml", s.Name)
	if strings.Contains(live, "<rng ") || !strings.Contains(live, "<interface ") {
		t.Errorf("after ejecting: %s", live)
	}
}

// TestFrozenAgent: a QEMU that hangs takes no more than its own limit.
func TestFrozenAgent(t *testing.T) {
	h := open(t)
	s := newSpec(t, h, "cap-ice", idle)
	running(t, h, s)
	pid := qemuPid(t, s.Name)
	noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	for name, ask := range requests(h, s.ID) {
		wantErr(t, name, ask(t.Context()), domain.ErrUnresponsive)
	}
}

// TestQuiet: a quiet domain's guest is not asked for its memory use, and none of what it says is exported.
func TestQuiet(t *testing.T) {
	h, reg := metered(t)
	ctx := t.Context()
	s := guestSpec(t, h, "cap-quiet", testhost.Guest(t))
	booted(t, h, s)
	told := []string{"libvirt_domain_memory_stats_unused_bytes", "libvirt_domain_memory_stats_usable_bytes", "libvirt_domain_memory_stats_used_percent",
		"libvirt_domain_memory_stats_last_update_timestamp_seconds", "libvirt_domain_memory_stats_current_balloon_bytes", "libvirt_domain_info_memory_usage_bytes"}
	tells := func(name string) func(scrape) bool {
		return func(got scrape) bool { _, there := of(got, name, s.Name); return there }
	}
	for _, name := range told {
		scraped(t, reg, name, tells(name))
	}
	for range 2 {
		noErr(t, "quiet", h.Quiet(ctx, s.ID, true))
	}
	scraped(t, reg, "a collection without them", func(got scrape) bool { return !tells(told[0])(got) })
	got := scraped(t, reg, "the host's own figure", tells("libvirt_domain_memory_stats_rss_bytes"))
	for _, name := range told {
		if tells(name)(got) {
			t.Errorf("%s of a quiet domain", name)
		}
	}
	if live := virsh(t, "dumpxml", s.Name); strings.Contains(live, "<stats period=") {
		t.Errorf("the guest is still asked: %s", live)
	}
	t.Run("to a host that was not told", func(t *testing.T) {
		_, reg := metered(t)
		got := scraped(t, reg, "the host's own figure", tells("libvirt_domain_memory_stats_rss_bytes"))
		for _, name := range told {
			if tells(name)(got) {
				t.Errorf("%s of a quiet domain", name)
			}
		}
	})
	noErr(t, "loud", h.Quiet(ctx, s.ID, false))
	if live := virsh(t, "dumpxml", s.Name); !strings.Contains(live, "<stats period='10'/>") {
		t.Errorf("the guest is not asked: %s", live)
	}
	scraped(t, reg, told[0], tells(told[0]))
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "quiet while off", h.Quiet(ctx, s.ID, true))
}
