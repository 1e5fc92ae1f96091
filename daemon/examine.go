package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// err says what of a proof failed, as the error of a step.
func (p Proof) err(what string) error {
	var failed, unknown []string
	for _, c := range p.Checks {
		switch {
		case c.Unknown:
			unknown = append(unknown, c.What+": "+c.Found)
		case !c.OK:
			failed = append(failed, fmt.Sprintf("%s: %s: %s", c.Promise, c.What, c.Found))
		}
	}
	if len(failed) == 0 {
		return errorf(Unavailable, "%s: %s", what, strings.Join(unknown, "; "))
	}
	return errorf(Conflict, "%s: %s", what, strings.Join(failed, "; "))
}

// portCheck is the check of what the tap is a port of.
const portCheck = "port of the tap"

// failsOnly says that one check alone stands against the proof.
func (p Proof) failsOnly(what string) bool {
	return !slices.ContainsFunc(p.Checks, func(c Check) bool { return !c.OK && c.What != what })
}

// whereabouts is where a capsule stands by the records. What is looked at between two that are equal is looked at under one
// record, and within one step of what is under way.
type whereabouts struct {
	version         int64
	operation, step string // under way; "" when nothing is
}

func whereaboutsOf(tx *store.Tx, c store.Capsule) (whereabouts, error) {
	open, err := tx.OpenOperation(c.ID)
	if errors.Is(err, store.ErrNotFound) {
		return whereabouts{version: c.Version}, nil
	}
	return whereabouts{c.Version, open.ID, open.Step}, err
}

// moved says whether a capsule that had nothing under way when its record was read has left that record since.
func (d *Daemon) moved(ctx context.Context, c store.Capsule) bool {
	var now whereabouts
	err := d.store.View(ctx, func(tx *store.Tx) error {
		found, err := tx.Capsule(c.ID)
		if err == nil {
			now, err = whereaboutsOf(tx, found)
		}
		return err
	})
	return errors.Is(err, store.ErrNotFound) || err == nil && now != whereabouts{version: c.Version}
}

// outdate makes a proof unknown whose record moved while it was made: what was seen is of one moment, and what should be
// there of another.
func (p *Proof) outdate() {
	for i := range p.Checks {
		if k := &p.Checks[i]; !k.OK && !k.Unknown {
			k.Unknown, k.Found = true, k.Found+", and the record moved meanwhile"
		}
	}
	p.Checks = append(p.Checks, Check{Promise: "P1", What: "record of the capsule", Unknown: true, Found: "not known: it moved whenever it was looked at; ask again"})
	p.Proved, p.Unknown = false, true
}

// examination gathers what is looked at.
type examination struct {
	Proof
	c      store.Capsule
	policy string // that should be in force
	moving bool   // an operation is under way: where the record says that it is, it need not be yet, or any more

	inForce     string // the policy that is
	fenceFaults int    // checks of rules and link that failed: those can be mended
}

func (e *examination) check(promise, what string, ok bool, format string, args ...any) {
	e.Checks = append(e.Checks, Check{Promise: promise, What: what, OK: ok, Found: fmt.Sprintf(format, args...)})
}

// expect is check for what is held against the record: of a capsule on its way that it differs proves nothing.
func (e *examination) expect(promise, what string, ok bool, format string, args ...any) {
	e.check(promise, what, ok || e.moving, format, args...)
	if e.moving && !ok {
		last := &e.Checks[len(e.Checks)-1]
		last.OK, last.Unknown, last.Found = false, true, last.Found+", and an operation is under way"
	}
}

func (e *examination) unknown(promise, what string, err error) {
	e.Checks = append(e.Checks, Check{Promise: promise, What: what, Unknown: true, Found: "not known: " + err.Error()})
}

// examine compares kernel, libvirt and disk with what a record says, under the policy that should be in force: that of
// the record, or firewall.Closed. It changes nothing, and believes no record but for what should be.
func (d *Daemon) examine(ctx context.Context, c store.Capsule, policy string) Proof {
	return d.examineWith(ctx, c, policy, d.fences.Inspect)
}

// examineWith is examine with rules that may have been read for several capsules at once.
func (d *Daemon) examineWith(ctx context.Context, c store.Capsule, policy string, rules func(context.Context, string) (firewall.Evidence, error)) Proof {
	e := &examination{c: c, policy: policy, moving: c.State != Running && c.State != Shutdown && c.State != Failed}
	e.Capsule, e.At, e.State, e.Mode, e.Policy, e.CleanPoint = c.ID, time.Now(), c.State, c.Mode, policyWord(policy), c.CleanPoint
	d.examineFence(ctx, e, rules)
	there, err := d.files.CleanPoint(ctx, c.ID)
	own := map[string]imagestore.File{}
	if err == nil {
		own, err = d.files.Files(ctx, c.ID)
	}
	if errors.Is(err, imagestore.ErrNotFound) && !c.Provisioned {
		err = nil
	}
	if err != nil {
		e.unknown("P2", "files of the capsule", err)
	}
	known := err == nil
	seen, err := d.domains.Inspect(ctx, domain.ID(c.ID))
	switch {
	case errors.Is(err, domain.ErrNotFound):
		e.expect("P3", "domain in libvirt", c.State != Running, "there is none")
	case err != nil:
		e.unknown("P1", "domain in libvirt", err)
	default:
		d.examineDomain(e, seen, there, own, known)
	}
	d.examineHolders(ctx, e)
	failed, unknown := 0, 0
	for _, k := range e.Checks {
		switch {
		case k.Unknown:
			unknown++
		case !k.OK:
			failed++
		}
	}
	e.Proved, e.Unknown = failed+unknown == 0, failed == 0 && unknown > 0
	e.rulesAlone = e.fenceFaults > 0 && failed == e.fenceFaults
	return e.Proof
}

// examineFence looks at the rules in the kernel.
func (d *Daemon) examineFence(ctx context.Context, e *examination, rules func(context.Context, string) (firewall.Evidence, error)) {
	what := fmt.Sprintf("rules of tap %s in IPv4, IPv6 and bridge layer", e.c.Key)
	ev, err := rules(ctx, e.c.Key)
	if err != nil {
		e.unknown("P1", what, err)
		return
	}
	e.RulesHash, e.denied = ev.Hash, deniedOf(ev)
	name := policyWord(ev.Policy)
	wrong := slices.DeleteFunc(slices.Clone(ev.Differences), func(d string) bool { return d == ev.LinkDifference || d == ev.PortDifference })
	e.check("P1", what, len(wrong) == 0, "%s", found(wrong, fmt.Sprintf("as policy %s has them (sha256 %.12s)", name, ev.Hash)))
	e.check("P1", "link of the tap", ev.LinkDifference == "", "%s", cmp.Or(ev.LinkDifference, string(ev.Link)))
	// On the way libvirt may be about to put a tap on the bridge that it has just made.
	e.expect("P1", portCheck, ev.PortDifference == "", "%s", cmp.Or(ev.PortDifference, string(ev.Port)))
	for _, bad := range []bool{len(wrong) > 0, ev.LinkDifference != "", ev.PortDifference != "" && !e.moving} {
		if bad {
			e.fenceFaults++
		}
	}
	e.expect("P1", "policy in force", ev.Policy == e.policy, "%s", name)
	e.inForce = ev.Policy
}

// denied counts the packets of a capsule that were dropped, by the layer that dropped them: bridge has all of IPv6 and of
// what is not IP.
type denied struct{ bridge, ipv4 uint64 }

func deniedOf(ev firewall.Evidence) denied {
	bridge := ev.DeniedByBridge.Packets
	return denied{bridge, ev.Denied.Packets - min(bridge, ev.Denied.Packets)}
}

// fit says whether a policy may be in force while data is attached.
func (d *Daemon) fit(policy string) bool {
	if policy == firewall.Closed {
		return true
	}
	p, ok := d.policy(policy)
	return ok && p.Secure
}

// policyWord is a policy's name for people.
func policyWord(policy string) string { return cmp.Or(policy, "closed") }

func found(faults []string, well string) string {
	if len(faults) == 0 {
		return well
	}
	return strings.Join(faults, "; ")
}

// disksAre says whether a domain has the disks that it should, and which it has. A serial is only what somebody called a
// disk: when the capsule's own files are known, its volumes must be those.
func disksAre(want []string, seen *domain.Devices, own map[string]imagestore.File, known bool) (bool, string) {
	text := fmt.Sprint(serials(seen))
	if !slices.Equal(serials(seen), want) {
		return false, text
	}
	for _, disk := range seen.Disks {
		if known && disk.Serial != rootDisk && disk.Path != own[disk.Serial].Path {
			return false, fmt.Sprintf("%s: %s is %s", text, disk.Serial, disk.Path)
		}
	}
	return true, text
}

// examineDomain looks at what libvirt has, live and defined.
func (d *Daemon) examineDomain(e *examination, seen domain.Inspection, there imagestore.CleanPoint, own map[string]imagestore.File, known bool) {
	e.DomainHash, e.running = seen.LiveHash, seen.Live != nil
	well := e.running == (e.c.State == Running)
	if held(e.c) {
		well = seen.State == domain.Paused || seen.State == domain.Off
	}
	e.expect("P3", "domain in libvirt", well, "%s", words[seen.State])
	ok, disks := disksAre(attached[Maintenance], seen.Defined, own, known)
	if ok && known && rootOf(seen.Defined) != own[rootDisk].Path {
		ok, disks = false, disks+": it is "+rootOf(seen.Defined)
	}
	e.expect("P3", "disks of the definition", ok, "%s", disks)
	if seen.Defined != nil {
		e.check("P3", "other devices of the definition", len(seen.Defined.Foreign) == 0, "%s", found(seen.Defined.Foreign, "none"))
	}
	e.expect("P2", "saved states and snapshots in libvirt", !seen.HasManagedSave && !seen.HasSnapshots,
		"managed save %s, snapshots %s", yes(seen.HasManagedSave), yes(seen.HasSnapshots))
	if seen.Live == nil {
		if known && !held(e.c) {
			e.expect("P2", "overlay of secure mode", !there.HaveOverlay, "%s", yes(there.HaveOverlay))
		}
		return
	}
	for _, name := range serials(seen.Live) {
		if name != rootDisk {
			e.Volumes = append(e.Volumes, name)
		}
	}
	if e.c.Mode == Secure || len(e.Volumes) > 0 || known && rootOf(seen.Live) == there.Overlay {
		e.check("P1", "policy is fit for data", d.fit(e.inForce), "%s", policyWord(e.inForce))
	}
	want := attached[e.c.Mode]
	promise := "P3"
	if e.c.Mode == Secure {
		promise = "P1"
		e.check("P1", "devices that the guest put out", len(seen.Ejected) == 0, "%s", found(seen.Ejected, "none"))
	}
	ok, disks = disksAre(want, seen.Live, own, known)
	e.expect(promise, "disks of the live domain", ok, "%s", disks)
	e.check("P1", "other devices of the live domain", len(seen.Live.Foreign) == 0, "%s", found(seen.Live.Foreign, "none"))
	// Where it listens is the configuration's, which may have changed since the launch.
	consoles := seen.Live.Graphics
	e.expect("P1", "consoles of the live domain", len(consoles) == 1 && strings.HasPrefix(consoles[0], "vnc ") && strings.HasSuffix(consoles[0], fmt.Sprintf(":%d", e.c.VNCPort)),
		"%s", strings.Join(consoles, ", "))
	nic, ok := ownNIC(seen.Live, e.c, d.opt.Network.Name)
	e.check("P1", "network interfaces of the live domain", ok, "%s", nic)
	if !known {
		return
	}
	root := rootOf(seen.Live)
	if e.c.Mode == Secure {
		e.expect("P2", "root disk of the live domain", root == there.Overlay && slices.Contains(seen.Live.Disks[0].Chain, there.Disk.Path), "%s", root)
		e.expect("P2", "clean point", e.c.CleanPoint != "" && there.HaveRAM, "id %q, RAM file %s", e.c.CleanPoint, yes(there.HaveRAM))
		e.expect("P2", "disk of the clean point", there.Stamp == e.c.CleanStamp, "%s", found(differs(there.Stamp, e.c.CleanStamp), "unchanged since"))
		return
	}
	e.expect("P2", "root disk of the live domain", root == there.Disk.Path, "%s", root)
	e.expect("P2", "overlay of secure mode", !there.HaveOverlay, "%s", yes(there.HaveOverlay))
}

func differs(now, then string) []string {
	if now == then {
		return nil
	}
	return []string{fmt.Sprintf("written to since: %s, was %s", now, then)}
}

func yes(there bool) string {
	if there {
		return "there"
	}
	return "none"
}

// ownNIC says whether a domain has the one interface that its fence is about, as libvirt would make it again. What its
// tap is a port of now the fence says.
func ownNIC(live *domain.Devices, c store.Capsule, network string) (string, bool) {
	if len(live.NICs) != 1 {
		return fmt.Sprintf("%d", len(live.NICs)), false
	}
	n := live.NICs[0]
	return fmt.Sprintf("%s, MAC %s, network %s, isolated by its definition %t", n.Tap, n.MAC, n.Network, n.Isolated),
		n.Tap == c.Key && n.MAC == c.MAC && n.Network == network && n.Isolated
}

// examineHolders looks for processes that have a volume open which nobody should have.
func (d *Daemon) examineHolders(ctx context.Context, e *examination) {
	if e.c.Mode == Secure {
		return // QEMU has them, as the live domain says
	}
	holders, err := d.files.OpenBy(ctx, e.c.ID, volumeNames...)
	if errors.Is(err, imagestore.ErrNotFound) {
		return
	}
	if err != nil {
		e.unknown("P3", "processes with a volume open", err)
		return
	}
	faults, readers := []string(nil), "none"
	for _, h := range holders {
		switch {
		case h.Write:
			faults = append(faults, fmt.Sprintf("process %d has %s", h.PID, h.Disk))
		default: // such as a backup: no domain opens a disk that it cannot write
			readers = fmt.Sprintf("process %d reads %s", h.PID, h.Disk)
		}
	}
	e.expect("P3", "processes with a volume open", len(faults) == 0, "%s", found(faults, readers))
}

// dataNear says whether a process can write to one of a capsule's volumes, as a domain does that has it attached, or to
// the overlay of secure mode: then it has read data, though somebody may have detached the volumes since. It asks the
// kernel, so that it is known whatever the records say and while libvirt is away. What cannot be known is near.
func (d *Daemon) dataNear(ctx context.Context, c store.Capsule) bool {
	w, err := d.writers(ctx, c.ID, append([]string{overlayDisk}, volumeNames...)...)
	if err != nil {
		d.complain(ctx, "volumes of capsule "+c.ID, err)
		return true
	}
	return len(w) > 0
}

// writers are who can write to some disks of a capsule. Who only reads, as a backup or qemu-img does, is no machine: no
// domain opens a disk that it cannot write.
func (d *Daemon) writers(ctx context.Context, id string, disks ...string) ([]imagestore.Holder, error) {
	holders, err := d.files.OpenBy(ctx, id, disks...)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, nil
	}
	return slices.DeleteFunc(holders, func(h imagestore.Holder) bool { return !h.Write }), err
}

// endingTime is how long a process may have its disks open after libvirt said that it is gone.
const endingTime = time.Second

// ended asks the kernel whether the machine of a capsule has ended: libvirt loses sight of one that runs when its files of
// state are lost, or when somebody defines the domain without our mark. Conflict when a process can write to its disks for
// longer than endingTime.
func (d *Daemon) ended(ctx context.Context, id string) error {
	for began := time.Now(); ; {
		w, err := d.writers(ctx, id, append([]string{rootDisk, overlayDisk}, volumeNames...)...)
		if err != nil || len(w) == 0 {
			return err
		}
		if time.Since(began) > endingTime {
			return errorf(Conflict, "%s, though libvirt knows of nothing that runs: end it, and the capsule can be stopped", holds(w))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(endingTime / 40):
		}
	}
}

// holds says who has what open.
func holds(list []imagestore.Holder) string {
	disks := map[int][]string{}
	for _, h := range list {
		disks[h.PID] = append(disks[h.PID], h.Disk)
	}
	var words []string
	for _, pid := range slices.Sorted(maps.Keys(disks)) {
		who := fmt.Sprintf("process %d", pid)
		if pid == 0 { // see imagestore.Holder
			who = "somebody whom /proc does not show (a loop device, perhaps)"
		}
		words = append(words, fmt.Sprintf("%s has the capsule's %s open", who, strings.Join(disks[pid], ", ")))
	}
	return strings.Join(words, "; ")
}
