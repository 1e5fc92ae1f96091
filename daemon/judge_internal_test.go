package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
)

// TestJudge holds the reconciler's verdict for every state against everything that libvirt can say.
func TestJudge(t *testing.T) {
	runs := domain.Observed{State: domain.Running}
	paused := domain.Observed{State: domain.Paused, Reason: domain.ReasonIOError}
	unknown := domain.Observed{State: domain.Unknown}
	off := func(r domain.Reason) domain.Observed { return domain.Observed{State: domain.Off, Reason: r} }
	pending := []State{CreatePending, LaunchPending, ShutdownPending, DeletePending, SwitchToSecurePending, SwitchToMaintenancePending}
	for _, c := range []struct {
		name    string
		states  []State
		o       domain.Observed
		present bool
		want    string // the kind of the operation that is begun
	}{
		{"runs as recorded", []State{Running}, runs, true, ""},
		{"stands still", []State{Running}, paused, true, ""},
		{"nobody knows", []State{Running, Shutdown, Failed}, unknown, true, ""},
		{"powered off", []State{Running}, off(domain.ReasonShutdown), true, opPoweroff},
		{"ended by somebody", []State{Running}, off(domain.ReasonDestroyed), true, opPoweroff},
		{"QEMU crashed", []State{Running}, off(domain.ReasonCrashed), true, opCrash},
		{"QEMU failed", []State{Running}, off(domain.ReasonFailed), true, opCrash},
		{"libvirtd lost it", []State{Running}, off(domain.ReasonDaemon), true, opPoweroff},
		{"found off", []State{Running}, off(domain.ReasonNone), true, opPoweroff},
		{"undefined", []State{Running}, domain.Observed{}, false, opCrash},
		{"runs against its record", []State{Shutdown, Failed}, runs, true, opEvict},
		{"stands still against its record", []State{Shutdown, Failed}, paused, true, opEvict},
		{"off as recorded", []State{Shutdown, Failed}, off(domain.ReasonShutdown), true, ""},
		{"gone, and to be off", []State{Shutdown, Failed}, domain.Observed{}, false, ""},
		{"an operation is under way, and it runs", pending, runs, true, ""},
		{"an operation is under way, and it is off", pending, off(domain.ReasonCrashed), true, ""},
		{"an operation is under way, and it is gone", pending, domain.Observed{}, false, ""},
		{"deletion failed, and it is gone", []State{DeleteError}, domain.Observed{}, false, opDelete},
		{"deletion failed, and it runs", []State{DeleteError}, runs, true, opDelete},
		{"deletion failed, and nobody knows", []State{DeleteError}, unknown, true, opDelete},
	} {
		for _, s := range c.states {
			mode := NotDefined
			if s == Running {
				mode = Maintenance
			}
			v := judge(store.Capsule{State: s, Mode: mode}, c.o, c.present)
			if v.kind != c.want {
				t.Errorf("%s: %s: %q, want %q", s, c.name, v.kind, c.want)
			}
			if v.kind != "" && v.kind != opPoweroff && v.kind != opDelete && v.cause == "" {
				t.Errorf("%s: %s: no cause", s, c.name)
			}
			if v.kind != "" && !slices.Contains(moves[v.kind].from, s) {
				t.Errorf("%s: %s: %s cannot leave that state", s, c.name, v.kind)
			}
		}
	}
}

// TestJudgeHeld: a capsule that is held is left alone, off or paused, and is closed and paused again when it runs.
func TestJudgeHeld(t *testing.T) {
	for _, mode := range []Mode{Maintenance, Secure} {
		c := store.Capsule{State: Failed, Mode: mode}
		for state, want := range map[domain.RunState]string{domain.Running: opHold, domain.Paused: "", domain.Off: "", domain.Unknown: ""} {
			if v := judge(c, domain.Observed{State: state}, true); v.kind != want {
				t.Errorf("held in %s, %v: %q, want %q", mode, state, v.kind, want)
			}
		}
		c.Cause = "leave: step destroy"
		for range 2 { // however often it runs
			c.Cause = judge(c, domain.Observed{State: domain.Running}, true).cause
		}
		if want := ranHeld + "leave: step destroy"; c.Cause != want {
			t.Errorf("held in %s: cause %q, want %q", mode, c.Cause, want)
		}
		if v := judge(c, domain.Observed{}, false); v.kind != "" {
			t.Errorf("held in %s, gone: %q", mode, v.kind)
		}
	}
}

// TestNoStateIsADeadEnd follows every arrow of the state machine: wherever an operation may leave a capsule it can be
// deleted from, a pending state has no way out but its own operation, and every kind has steps.
func TestNoStateIsADeadEnd(t *testing.T) {
	d := &Daemon{}
	procedures := d.table()
	pending := map[State]bool{}
	for kind, m := range moves {
		for _, mode := range []Mode{NotDefined, Maintenance, Secure} {
			pending[m.pendingIn(mode)] = true
		}
		p := procedures[kind]
		if p == nil || len(p.steps) == 0 {
			t.Errorf("%s has no steps", kind)
			continue
		}
		for _, s := range []State{m.done, m.failed} {
			if s != Deleted && !slices.Contains(moves[opDelete].from, s) {
				t.Errorf("%s leaves a capsule %s, and that cannot be deleted", kind, s)
			}
			if fenced[s] != (s == Running) {
				t.Errorf("%s leaves a capsule %s with a fence %v", kind, s, fenced[s])
			}
		}
		if m.mode != "" && (m.mode != NotDefined) != (m.done == Running) {
			t.Errorf("%s makes a capsule %s in mode %s", kind, m.done, m.mode)
		}
	}
	for kind, m := range moves {
		for _, s := range m.from {
			if pending[s] {
				t.Errorf("%s leaves %s, which belongs to another operation", kind, s)
			}
		}
	}
	for kind := range procedures {
		if _, ok := moves[kind]; !ok && !strings.HasPrefix(kind, "image-") {
			t.Errorf("%s is not in the state machine", kind)
		}
	}
}

// TestModesAndVolumes: what a mode may see and reach. The volumes belong to secure mode alone.
func TestModesAndVolumes(t *testing.T) {
	for mode, disks := range attached {
		if mode != Secure && (slices.Contains(disks, secureVolume) || slices.Contains(disks, releaseSpool)) {
			t.Errorf("%s has %v attached", mode, disks)
		}
	}
	states := []State{
		CreatePending, LaunchPending, Running, ShutdownPending, Shutdown, DeletePending, Failed, Deleted, DeleteError, SwitchToSecurePending, SwitchToMaintenancePending, ImageSharePending,
	}
	yes, no := true, false
	for _, c := range []struct {
		capsule store.Capsule
		want    map[State]string // "" in all other states
	}{
		{store.Capsule{Mode: NotDefined}, map[State]string{LaunchPending: "maintenance"}},
		{store.Capsule{Mode: Maintenance}, map[State]string{LaunchPending: "maintenance", Running: "maintenance", ShutdownPending: "maintenance"}},
		{store.Capsule{Mode: Secure, Type: Demo}, map[State]string{LaunchPending: "maintenance", Running: "secure", ShutdownPending: "secure"}},
		{store.Capsule{Mode: Secure, Type: Research}, map[State]string{LaunchPending: "maintenance", Running: "secure", ShutdownPending: "secure"}},
		{store.Capsule{Mode: Secure, Type: ResearchFull}, map[State]string{LaunchPending: "maintenance", Running: "secure-full", ShutdownPending: "secure-full"}},
		{store.Capsule{Mode: Secure, Type: ResearchFull, OwnerFullAccess: &yes}, map[State]string{LaunchPending: "maintenance", Running: "secure-full", ShutdownPending: "secure-full"}},
		{store.Capsule{Mode: Secure, Type: ResearchFull, OwnerFullAccess: &no}, map[State]string{LaunchPending: "maintenance", Running: "secure", ShutdownPending: "secure"}},
		{store.Capsule{Mode: Secure, Type: Research, Review: true}, map[State]string{LaunchPending: "maintenance", Running: "secure-admin", ShutdownPending: "secure-admin"}},
	} {
		for _, s := range states {
			c.capsule.State = s
			if p := inForce(c.capsule); p != c.want[s] {
				t.Errorf("%s in %s, %s: policy %q, want %q", s, c.capsule.Mode, c.capsule.Type, p, c.want[s])
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	for name, subnet := range map[string]string{"/24": "192.168.53.0/24", "/29": "10.0.0.8/29", "/16": "10.1.0.0/16"} {
		t.Run(name, func(t *testing.T) { checkAddresses(t, subnet) })
	}
}

func checkAddresses(t *testing.T, text string) {
	subnet := netip.MustParsePrefix(text)
	a, err := newAddresses(subnet)
	if err != nil {
		t.Fatal(err)
	}
	gateway := subnet.Addr().Next()
	if a.first != gateway.Next() {
		t.Errorf("the first is %s, and the gateway %s", a.first, gateway)
	}
	if broadcast := a.last.Next(); !subnet.Contains(broadcast) || subnet.Contains(broadcast.Next()) {
		t.Errorf("the last is %s", a.last)
	}
}
