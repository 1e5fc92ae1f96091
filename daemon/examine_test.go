package daemon_test

import (
	"context"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// tampered is a host on which something is not as the daemon made it.
type tampered struct {
	*machine
	seen     func(*domain.Inspection)
	evidence func(*firewall.Evidence)
	point    func(*imagestore.CleanPoint)
}

func (t *tampered) Inspect(ctx context.Context, id domain.ID) (domain.Inspection, error) {
	seen, err := t.machine.Inspect(ctx, id)
	if t.seen != nil {
		t.seen(&seen)
	}
	return seen, err
}

func (t *tampered) CleanPoint(ctx context.Context, key string) (imagestore.CleanPoint, error) {
	there, err := t.machine.CleanPoint(ctx, key)
	if t.point != nil {
		t.point(&there)
	}
	return there, err
}

// tamperedRules is its firewall: both have an Inspect.
type tamperedRules struct {
	fencesOf
	host *tampered
}

func (t tamperedRules) Inspect(ctx context.Context, tap string) (firewall.Evidence, error) {
	ev, err := t.fencesOf.Inspect(ctx, tap)
	if t.host.evidence != nil {
		t.host.evidence(&ev)
	}
	return ev, err
}

// TestEachCheckCanFail changes one thing after the other behind the daemon's back: the check that is about it fails, and
// says so under its promise.
func TestEachCheckCanFail(t *testing.T) {
	host := &tampered{}
	b := newBench(t, func(o *daemon.Options) {
		host.machine = o.Domains.(*machine)
		o.Domains, o.Files, o.Fences = host, host, tamperedRules{o.Fences.(fencesOf), host}
	})
	id := b.secured()
	nic := func(change func(*domain.NICSeen)) func(*domain.Inspection) {
		return func(in *domain.Inspection) { change(&in.Live.NICs[0]) }
	}
	for _, row := range []struct {
		name string
		host tampered
		want string
	}{
		{"rules", tampered{evidence: func(e *firewall.Evidence) { e.Differences = []string{"one more"} }}, "P1: rules of tap"},
		{"a link", tampered{evidence: func(e *firewall.Evidence) {
			e.Link, e.LinkDifference, e.Differences = firewall.LinkUp, "link up", []string{"link up"}
		}}, "P1: link of the tap"},
		{"a port", tampered{evidence: func(e *firewall.Evidence) {
			e.Port, e.PortDifference, e.Differences = firewall.OpenPort, "not isolated", []string{"not isolated"}
		}}, "P1: port of the tap"},
		{"a policy that opens", tampered{evidence: func(e *firewall.Evidence) { e.Policy = "maintenance" }}, "P1: policy is fit for data"},
		{"another secure policy", tampered{evidence: func(e *firewall.Evidence) { e.Policy = "secure-full" }}, "P1: policy in force"},
		{"a volume less", tampered{seen: func(in *domain.Inspection) { in.Live.Disks = in.Live.Disks[:2] }}, "P1: disks of the live domain"},
		{"another's volume", tampered{seen: func(in *domain.Inspection) { in.Live.Disks[1].Path = "/capsules/another/secure_volume.raw" }}, "P1: disks of the live domain"},
		{"a device put out", tampered{seen: func(in *domain.Inspection) { in.Ejected = []string{"rng virtio"} }}, "P1: devices that the guest put out"},
		{"a device", tampered{seen: func(in *domain.Inspection) { in.Live.Foreign = []string{"a host device"} }}, "P1: other devices of the live domain"},
		{"another tap", tampered{seen: nic(func(n *domain.NICSeen) { n.Tap = "vnet0" })}, "P1: network interfaces"},
		{"another network", tampered{seen: nic(func(n *domain.NICSeen) { n.Network = "default" })}, "P1: network interfaces"},
		{"another MAC", tampered{seen: nic(func(n *domain.NICSeen) { n.MAC = "52:54:00:00:00:01" })}, "P1: network interfaces"},
		{"no isolation", tampered{seen: nic(func(n *domain.NICSeen) { n.Isolated = false })}, "P1: network interfaces"},
		{"a second console", tampered{seen: func(in *domain.Inspection) { in.Live.Graphics = append(in.Live.Graphics, "vnc 0.0.0.0:5999") }}, "P1: consoles of the live domain"},
		{"a second interface", tampered{seen: func(in *domain.Inspection) { in.Live.NICs = append(in.Live.NICs, in.Live.NICs[0]) }}, "P1: network interfaces"},
		{"a managed save", tampered{seen: func(in *domain.Inspection) { in.HasManagedSave = true }}, "P2: saved states and snapshots"},
		{"a snapshot", tampered{seen: func(in *domain.Inspection) { in.HasSnapshots = true }}, "P2: saved states and snapshots"},
		{"on its own disk", tampered{seen: func(in *domain.Inspection) { in.Live.Disks[0].Path = in.Defined.Disks[0].Path }}, "P2: root disk of the live domain"},
		{"over another disk", tampered{seen: func(in *domain.Inspection) { in.Live.Disks[0].Chain = []string{"/another"} }}, "P2: root disk of the live domain"},
		{"no RAM file", tampered{point: func(p *imagestore.CleanPoint) { p.HaveRAM = false }}, "P2: clean point"},
		{"a disk that was written to", tampered{point: func(p *imagestore.CleanPoint) { p.Stamp = "another" }}, "P2: disk of the clean point"},
		{"a definition with a volume", tampered{seen: func(in *domain.Inspection) { in.Defined.Disks = append(in.Defined.Disks, in.Live.Disks[1]) }}, "P3: disks of the definition"},
		{"a volume for a root disk", tampered{seen: func(in *domain.Inspection) { in.Defined.Disks[0].Path = in.Live.Disks[1].Path }}, "P3: disks of the definition"},
		{"a definition with a device", tampered{seen: func(in *domain.Inspection) { in.Defined.Foreign = []string{"a host device"} }}, "P3: other devices of the definition"},
		{"no process", tampered{seen: func(in *domain.Inspection) { in.State, in.Live = domain.Off, nil }}, "P3: domain in libvirt"},
	} {
		host.seen, host.evidence, host.point = row.host.seen, row.host.evidence, row.host.point
		p, err := b.Prove(t.Context(), alice, id)
		if err != nil {
			t.Fatal(err)
		}
		var failed []string
		for _, c := range p.Checks {
			if !c.OK {
				failed = append(failed, c.Promise+": "+c.What)
			}
		}
		if (row.name == "a link" || row.name == "a port") && len(failed) != 1 {
			t.Errorf("%s fails %q", row.name, failed)
		}
		if all := strings.Join(failed, "\n"); p.Proved || p.Unknown || !strings.Contains(all, row.want) {
			t.Errorf("%s: proved %t, failed %q, want %q", row.name, p.Proved, failed, row.want)
		}
	}
	host.seen, host.evidence, host.point = nil, nil, nil
	if p, err := b.Prove(t.Context(), alice, id); err != nil || !p.Proved {
		t.Errorf("with nothing changed: %+v, %v", p, err)
	}
}

// TestPortOnTheWay: a tap that is not on the bridge while libvirt makes the domain disproves nothing, and proves nothing.
func TestPortOnTheWay(t *testing.T) {
	host := &tampered{}
	b := newBench(t, func(o *daemon.Options) {
		host.machine = o.Domains.(*machine)
		o.Fences = tamperedRules{o.Fences.(fencesOf), host}
	})
	id := b.launched()
	reached, release := b.machine.hold("Checkpoint")
	op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	host.evidence = func(e *firewall.Evidence) { e.Port, e.PortDifference = firewall.NoPort, "on no bridge" }
	p, err := b.Prove(t.Context(), alice, id)
	host.evidence = nil
	release()
	b.succeed(op, nil)
	if err != nil || p.Proved || !p.Unknown {
		t.Errorf("proved %t, unknown %t, %v: %+v", p.Proved, p.Unknown, err, p.Checks)
	}
}
