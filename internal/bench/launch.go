package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/google/uuid"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// copyName is the domain that is compared with a capsule's: the same but for name, id and the mark that makes it ours,
// so that the daemon leaves it alone.
const copyName = "bench-copy"

// launches measures launchvm against `virsh start` of the same XML, and against the bare call that both come down to.
func launches(ctx context.Context, b *bench) (err error) {
	b.say("launchvm against virsh start, %d pairs", b.plan.pairs)
	op, _, err := b.d.create(ctx)
	if err != nil {
		return err
	}
	capsule := op.Target
	conn, err := libvirt.NewConnect("qemu:///system")
	if err != nil {
		return err
	}
	defer conn.Close()
	var begun steps
	launch := func() (time.Duration, error) {
		op, took, err := b.d.act(ctx, b.d.api.LaunchCapsule, capsule)
		if err != nil {
			return 0, err
		}
		begun.add(op, took)
		_, _, err = b.d.act(ctx, b.d.api.StopCapsule, capsule)
		return took, err
	}
	// Once off the clock: libvirt looks into QEMU's abilities, and the files come into the kernel's cache. The copy is
	// made after it, of what launchvm defined.
	if _, err := launch(); err != nil {
		return err
	}
	begun = steps{}
	dom, err := copyDomain(conn, capsule)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dom.Undefine(), dom.Free()) }()
	ways := []way{
		{"launchvm", launch},
		{"virsh start", func() (time.Duration, error) { return timed(dom, func() error { return virshStart(ctx) }) }},
		{"virDomainCreate", func() (time.Duration, error) { return timed(dom, dom.Create) }},
	}
	took, err := inTurn(ways, b.plan.pairs)
	if err != nil {
		return err
	}
	report(b, took, begun)
	_, _, err = b.d.act(ctx, b.d.api.DeleteCapsule, capsule)
	return err
}

// way is one way to start the same machine: it ends it again off the clock.
type way struct {
	name string
	run  func() (time.Duration, error)
}

// inTurn runs all ways in each round, every time in another order.
func inTurn(ways []way, rounds int) (map[string]sample, error) {
	took := map[string]sample{}
	for round := range rounds {
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			d, err := w.run()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			took[w.name] = append(took[w.name], d)
		}
	}
	return took, nil
}

func report(b *bench, took map[string]sample, begun steps) {
	launch, virsh, bare := took["launchvm"], took["virsh start"], took["virDomainCreate"]
	t := table{title: fmt.Sprintf("launchvm against starts of the same XML, %d rounds of all three", len(launch)),
		head: []string{"", "median", "p10", "p90", "to virsh start", "to virDomainCreate"}}
	for _, name := range []string{"launchvm", "virsh start", "virDomainCreate"} {
		s := took[name]
		t.add(name, ms(s.median()), ms(s.at(0.1)), ms(s.at(0.9)), ratio(s.median(), virsh.median()), ratio(s.median(), bare.median()))
	}
	for _, other := range []struct {
		name string
		took sample
	}{{"virsh start", virsh}, {"virDomainCreate", bare}} {
		d := differences(launch, other.took)
		t.add("less "+other.name+" of the same round", ms(d.median()), ms(d.at(0.1)), ms(d.at(0.9)), ratio(d.median(), virsh.median()), ratio(d.median(), bare.median()))
	}
	t.print(b.out)
	t = table{title: "Where the time of launchvm goes", head: []string{"", "median", "p10", "p90", "share"}}
	begun.rows(&t, launch.median())
	t.print(b.out)
}

// differences are those of each round: what slowed a whole round is in neither.
func differences(a, b sample) sample {
	d := slices.Clone(a)
	for i := range d {
		d[i] -= b[i]
	}
	return d
}

func timed(dom *libvirt.Domain, start func() error) (time.Duration, error) {
	began := time.Now()
	err := start()
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, dom.Destroy()
}

func virshStart(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "virsh", "-q", "-c", "qemu:///system", "start", copyName).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// copyDomain defines the domain of a capsule, which does not run, once more. The two share disks, tap and ports, and
// are never on at the same time.
func copyDomain(conn *libvirt.Connect, capsule string) (*libvirt.Domain, error) {
	from, err := conn.LookupDomainByUUIDString(capsule)
	if err != nil {
		return nil, err
	}
	defer from.Free()
	doc, err := from.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(doc); err != nil {
		return nil, err
	}
	x.Name, x.UUID, x.Metadata = copyName, uuid.NewString(), nil
	if doc, err = x.Marshal(); err != nil {
		return nil, err
	}
	return conn.DomainDefineXML(doc)
}
