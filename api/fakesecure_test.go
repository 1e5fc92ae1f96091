package api_test

import (
	"context"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// switched is what a verb of the modes was asked for.
type switched struct {
	ID     string
	Mode   daemon.Mode
	Review bool
	Type   daemon.Type
	Packet string
}

func (f *fakeDaemon) SwitchCapsule(ctx context.Context, c daemon.Caller, id string, mode daemon.Mode, review bool) (daemon.Operation, error) {
	f.note(switched{ID: id, Mode: mode, Review: review})
	if found := f.copyOf(id); found != nil && found.State == daemon.Running && found.Mode == mode {
		return daemon.Operation{}, &daemon.Error{Code: daemon.Conflict, Message: "the capsule is in mode " + string(mode) + " already"}
	}
	kind, pending := "enter", daemon.SwitchToSecurePending
	if mode == daemon.Maintenance {
		kind, pending = "leave", daemon.SwitchToMaintenancePending
	}
	return f.act(ctx, c, id, kind, daemon.Running, pending)
}

func (f *fakeDaemon) ResumeCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	return f.act(ctx, c, id, "readmit", daemon.Failed, daemon.Failed)
}

func (f *fakeDaemon) SetCapsuleType(ctx context.Context, c daemon.Caller, id string, t daemon.Type) error {
	f.note(switched{ID: id, Type: t})
	return f.known(ctx, c, id)
}

func (f *fakeDaemon) Prove(ctx context.Context, c daemon.Caller, id string) (daemon.Proof, error) {
	if err := f.known(ctx, c, id); err != nil {
		return daemon.Proof{}, err
	}
	found := f.copyOf(id)
	return daemon.Proof{Capsule: id, At: epoch, State: found.State, Mode: found.Mode, Policy: "secure", Checks: []daemon.Check{
		{Promise: "P1", What: "the rules in the IP layer", Found: "as they should be", OK: true},
		{Promise: "P1", What: "the rules in the bridge layer", Found: "two lines are missing"},
		{Promise: "P3", What: "the live XML", Found: "libvirt does not answer", Unknown: true},
	}, RulesHash: "00ff", DomainHash: "11ee", Volumes: []string{"secure_volume"}, CleanPoint: "cp-1",
		Records: daemon.Chain{Length: 2, Head: "22dd", Fault: "record 2 was altered"}}, nil
}

func (f *fakeDaemon) SwitchRecords(ctx context.Context, c daemon.Caller, id string) ([]daemon.SwitchRecord, error) {
	if err := f.known(ctx, c, id); err != nil || f.copyOf(id).Mode == daemon.NotDefined {
		return nil, err
	}
	return []daemon.SwitchRecord{{Seq: 7, At: epoch, Capsule: id, Operation: "op-1", Kind: "enter", Outcome: "failed", Cause: "the disk is full",
		Actor: c.GUID, Origin: c.From, Mode: daemon.Maintenance, Policy: "maintenance",
		Steps:     []daemon.Step{{Name: "fence", State: "done", Seconds: 0.5, Note: "3 connections cut"}},
		RulesHash: "00ff", DomainHash: "11ee", Volumes: []string{"secure_volume"}, CleanPoint: "cp-1", Cut: new(3), Previous: "33cc", Hash: "44bb"},
		{Seq: 5, At: epoch.Add(-time.Hour), Capsule: id, Kind: "leave", Outcome: "succeeded", Mode: daemon.Maintenance, Hash: "22dd"}}, nil
}

func (f *fakeDaemon) Doctor(ctx context.Context, c daemon.Caller) ([]daemon.Finding, error) {
	return []daemon.Finding{{Name: "bridge-nf", OK: true, Detail: "net.bridge.bridge-nf-call-iptables is 1"},
		{Name: "iptables-legacy", Detail: "12 rules", Advice: "remove them"}}, f.enter(ctx, c)
}

func (f *fakeDaemon) Policies(ctx context.Context, c daemon.Caller) ([]daemon.PolicyInfo, error) {
	return []daemon.PolicyInfo{{Name: "secure", Source: "secure.toml", Digest: "55aa", Comment: "Closed.", Secure: true, Rules: 2, Capsules: 1}},
		f.enter(ctx, c)
}

func (f *fakeDaemon) ReloadPolicies(ctx context.Context, c daemon.Caller) ([]daemon.PolicyInfo, error) {
	if err := f.enter(ctx, c); err != nil {
		return nil, err
	}
	return nil, &daemon.Error{Code: daemon.Invalid, Message: "secure.toml:3: unknown key \"dsn\": dns is one"}
}

func (f *fakeDaemon) ShowPolicy(ctx context.Context, c daemon.Caller, id string) (daemon.PolicyView, error) {
	return daemon.PolicyView{Policy: daemon.PolicyInfo{Name: "maintenance", Source: "maintenance.toml", Digest: "66ff", Rules: 1},
		Differences: []string{"ipv4: -A cap-00000001 -j ACCEPT should not be there"},
		Allowed:     daemon.Traffic{Packets: 1, Bytes: 1 << 40}}, f.known(ctx, c, id)
}

func (f *fakeDaemon) ExplainPacket(ctx context.Context, c daemon.Caller, id, packet string) (daemon.Explanation, error) {
	f.note(switched{ID: id, Packet: packet})
	return daemon.Explanation{Packet: packet, Policy: "secure", Allowed: true, Line: 12, Source: "secure.toml", Why: "allowed by line 12 of secure.toml"},
		f.known(ctx, c, id)
}

func (f *fakeDaemon) note(s switched) {
	f.set(func(f *fakeDaemon) { f.switched = append(f.switched, s) })
}

func (f *fakeDaemon) copyOf(id string) *daemon.Capsule {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found, ok := f.capsules[id]; ok {
		c := *found
		return &c
	}
	return nil
}

// known enters a verb about a capsule that must be there.
func (f *fakeDaemon) known(ctx context.Context, c daemon.Caller, id string) error {
	if err := f.enter(ctx, c); err != nil {
		return err
	}
	if f.copyOf(id) == nil {
		return &daemon.Error{Code: daemon.NotFound, Message: "no capsule " + id}
	}
	return nil
}
