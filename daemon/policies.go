package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
)

// policy is a policy that is loaded.
func (d *Daemon) policy(name string) (policy.Policy, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.policies[name]
	return p, ok
}

// needed are the policies that the daemon cannot be without, and whether each must be fit for data.
var needed = map[string]bool{policyMaintenance: false, policySecure: true, policySecureFull: true, policySecureAdmin: true}

// load reads the policies and checks that the daemon can work with them.
func (d *Daemon) load() (map[string]policy.Policy, error) {
	list, err := d.opt.Policies()
	if err != nil {
		return nil, errorf(Invalid, "the policies are not valid, and the old ones stay in force: %v", err)
	}
	set := map[string]policy.Policy{}
	for _, p := range list {
		set[p.Name] = p
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		p, ok := set[name]
		if !ok {
			return nil, errorf(Invalid, "there is no policy %q", name)
		}
		if needed[name] && !p.Secure {
			return nil, errorf(Invalid, "policy %q (%s) must say secure = true: it is in force while data is attached", name, p.Source)
		}
	}
	return set, nil
}

// ReloadPolicies reads the policy files again and puts them in force, all or none: capsules whose policy changed are
// closed for a moment, and lose their connections; the others notice nothing. For administrators.
func (d *Daemon) ReloadPolicies(ctx context.Context, c Caller) (list []PolicyInfo, err error) {
	const kind = "reload-policies"
	defer d.refused(ctx, c, kind, "", &err)
	if !c.admin() {
		return nil, errorf(Forbidden, "only an administrator reloads the policies")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	set, err := d.load()
	if err != nil {
		return nil, err
	}
	if err := d.fenceMu.take(ctx); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // who gives up now would stop in the middle, with capsules closed
	err = d.fences.SetPolicies(ctx, slices.Collect(maps.Values(set)))
	if err == nil {
		d.mu.Lock()
		d.policies = set
		d.mu.Unlock()
	}
	d.fenceMu.release()
	if err != nil {
		return nil, err
	}
	d.log.LogAttrs(ctx, slog.LevelInfo, "policies reloaded", slog.String("policies", digestsOf(set)))
	d.warnOwn(ctx)
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(d.notePolicies(tx, c, kind), tx.Audit(auditRow(c.GUID, c.From, c.Request, kind, "", "succeeded", digestsOf(set))))
	})
	if err != nil {
		why := classify(err)
		return nil, &Error{Code: why.Code, Message: "the policies are in force, and that could not be written down yet: " + why.Message, Err: err}
	}
	return d.Policies(ctx, c)
}

func digestsOf(set map[string]policy.Policy) string {
	digests := ""
	for _, name := range slices.Sorted(maps.Keys(set)) {
		digests += fmt.Sprintf("%s %s %s; ", name, set[name].Source, set[name].Digest)
	}
	return digests
}

// notePolicies writes down what the policies that are loaded say, and leaves a record of each capsule in secure mode
// whose policy says something else than when it was last written down: by a reload, or while the daemon was not there.
func (d *Daemon) notePolicies(tx *store.Tx, who Caller, kind string) error {
	d.mu.Lock()
	set := d.policies
	d.mu.Unlock()
	changed := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		key := "policy." + name
		was, err := tx.Setting(key)
		if err != nil {
			return err
		}
		if was == set[name].Digest {
			continue
		}
		changed[name] = was != ""
		if err := tx.PutSetting(key, set[name].Digest); err != nil {
			return err
		}
	}
	all, err := tx.Capsules()
	errs := []error{err}
	for _, capsule := range all {
		if changed[inForce(capsule)] {
			errs = append(errs, d.recordPolicy(tx, who, kind, capsule, "succeeded", nil))
		}
	}
	return errors.Join(errs...)
}

// notePoliciesRead does so for the policies that were there when the daemon came. While the disk is full that waits for
// the next full pass: it keeps the daemon from no capsule.
func (d *Daemon) notePoliciesRead(ctx context.Context) error {
	d.mu.Lock()
	set := d.policies
	d.mu.Unlock()
	current := true
	err := d.store.View(ctx, func(tx *store.Tx) error {
		for name, p := range set {
			was, err := tx.Setting("policy." + name)
			if err != nil {
				return err
			}
			current = current && was == p.Digest
		}
		return nil
	})
	if err != nil || current {
		return err
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(d.notePolicies(tx, itself, "read-policies"), tx.Audit(auditRow(itself.GUID, itself.From, "", "read-policies", "", "succeeded", digestsOf(set))))
	})
}

// Policies are the policies that are loaded. For administrators.
func (d *Daemon) Policies(ctx context.Context, c Caller) ([]PolicyInfo, error) {
	if !c.admin() {
		return nil, errorf(Forbidden, "only an administrator sees the policies")
	}
	under := map[string]int{}
	err := d.view(ctx, func(tx *store.Tx) error {
		all, err := tx.Capsules()
		for _, capsule := range all {
			under[inForce(capsule)]++
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []PolicyInfo
	for _, name := range slices.Sorted(maps.Keys(d.policies)) {
		info := describePolicy(d.policies[name])
		info.Capsules = under[name]
		list = append(list, info)
	}
	return list, nil
}

func describePolicy(p policy.Policy) PolicyInfo {
	return PolicyInfo{Name: p.Name, Source: p.Source, Digest: p.Digest, Comment: p.Comment, Secure: p.Secure, Rules: len(p.Rules)}
}

// ShowPolicy says what fences a capsule now. For administrators.
func (d *Daemon) ShowPolicy(ctx context.Context, c Caller, id string) (PolicyView, error) {
	var v PolicyView
	capsule, err := d.forAdmin(ctx, c, id)
	if err != nil {
		return v, err
	}
	ev, err := d.fences.Inspect(ctx, capsule.Key)
	if err != nil {
		return v, classify(err)
	}
	v.Policy = d.policyOf(capsule)
	v.Kernel, v.Differences = ev.Kernel, ev.Differences
	v.Allowed, v.Denied = Traffic(ev.Allowed), Traffic(ev.Denied)
	if closing := capsule.State == ShutdownPending && ev.Policy == firewall.Closed; ev.Policy != inForce(capsule) && !closing {
		v.Differences = append(v.Differences, fmt.Sprintf("the policy in force is %s, and should be %s", policyWord(ev.Policy), policyWord(inForce(capsule))))
	}
	return v, nil
}

// policyOf describes the policy that a capsule should be under.
func (d *Daemon) policyOf(c store.Capsule) PolicyInfo {
	name := inForce(c)
	if name == firewall.Closed {
		return PolicyInfo{Name: policyWord(name), Comment: closedWhy(c), Secure: true}
	}
	p, _ := d.policy(name)
	return describePolicy(p)
}

// closedWhy says why nothing passes, whatever the policies say.
func closedWhy(c store.Capsule) string {
	switch {
	case held(c):
		return "nothing in, nothing out while the capsule is held"
	case c.State == SwitchToSecurePending || c.State == SwitchToMaintenancePending:
		return "nothing in, nothing out on the way between the modes"
	}
	return "nothing in, nothing out"
}

// ExplainPacket says what would become of a packet such as "tcp to 192.0.2.1:443" of a capsule. For administrators.
func (d *Daemon) ExplainPacket(ctx context.Context, c Caller, id, packet string) (Explanation, error) {
	capsule, err := d.forAdmin(ctx, c, id)
	if err != nil {
		return Explanation{}, err
	}
	p, _ := d.policy(inForce(capsule)) // the zero policy allows nothing
	pk, err := p.Packet(packet)
	if err != nil {
		return Explanation{}, errorf(Invalid, "%v", err)
	}
	if inForce(capsule) == firewall.Closed {
		return Explanation{Packet: pk.String(), Policy: policyWord(firewall.Closed), Why: "closed: " + closedWhy(capsule)}, nil
	}
	subnet := d.opt.Network.Subnet
	gateway := subnet.Masked().Addr().Next()
	if !pk.Host && pk.Peer == gateway {
		pk.Host = true
	} else if !pk.Host && subnet.Contains(pk.Peer) {
		return Explanation{Packet: pk.String(), Policy: d.policyOf(capsule).Name, Source: p.Source, Why: "dropped: capsules never reach each other"}, nil
	}
	if !pk.Host && pk.Peer.Is4() {
		own, err := d.opt.Own(pk.Peer)
		if err != nil {
			return Explanation{}, classify(err)
		}
		if own {
			return Explanation{Packet: pk.String(), Policy: d.policyOf(capsule).Name, Source: p.Source, Why: fmt.Sprintf("dropped: %v is %s", pk.Peer, ownClosed)}, nil
		}
	}
	verdict := p.Explain(pk)
	x := Explanation{Packet: pk.String(), Policy: d.policyOf(capsule).Name, Allowed: verdict.Allowed, Line: verdict.Line, Source: p.Source, Why: verdict.Why}
	return x, nil
}

// ownClosed is why a packet to or from an address of the host is dropped, whatever the policies say.
const ownClosed = `an address of this host, of which "host", its address on the bridge, is the only one that a policy opens`

// warnOwn warns of rules that allow what the kernel drops: their peer is an address of this host. A policy may be the same
// on many hosts, so that is no fault of it.
func (d *Daemon) warnOwn(ctx context.Context) {
	d.mu.Lock()
	set := d.policies
	d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(set)) {
		for _, r := range set[name].Rules {
			for _, peer := range r.Peers {
				if r.Deny || !peer.IsSingleIP() {
					continue
				}
				own, err := d.opt.Own(peer.Addr())
				if err != nil {
					d.complain(ctx, "addresses of the host", err)
					return
				}
				if !own {
					continue
				}
				d.log.LogAttrs(ctx, slog.LevelWarn, "policy allows a peer that stays closed", slog.String("policy", name), slog.Int("line", r.Line),
					slog.String("peer", peer.Addr().String()), slog.String("why", "it is "+ownClosed))
			}
		}
	}
}

// forAdmin reads a capsule for an administrator.
func (d *Daemon) forAdmin(ctx context.Context, c Caller, id string) (capsule store.Capsule, err error) {
	if c.GUID != "" && !c.admin() {
		return capsule, errorf(Forbidden, "only an administrator sees what fences a capsule")
	}
	err = d.inspecting(ctx, c, id, func(_ *store.Tx, found store.Capsule) error { capsule = found; return nil })
	return capsule, err
}
