package api

import (
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

func proof(p daemon.Proof) wire.Proof {
	return wire.Proof{
		Capsule:    p.Capsule,
		At:         p.At.UTC(),
		State:      string(p.State),
		Mode:       string(p.Mode),
		Policy:     p.Policy,
		Proved:     p.Proved,
		Unknown:    p.Unknown,
		Checks:     each(p.Checks, checkOf),
		RulesHash:  p.RulesHash,
		DomainHash: p.DomainHash,
		Volumes:    texts(p.Volumes),
		CleanPoint: p.CleanPoint,
		Records:    wire.Chain{Length: p.Records.Length, Head: p.Records.Head, Fault: p.Records.Fault},
	}
}

func checkOf(c daemon.Check) wire.Check {
	return wire.Check{Promise: c.Promise, What: c.What, Found: c.Found, OK: c.OK, Unknown: c.Unknown}
}

func switchRecord(r daemon.SwitchRecord) wire.SwitchRecord {
	return wire.SwitchRecord{
		Seq:          r.Seq,
		At:           r.At.UTC(),
		Capsule:      r.Capsule,
		Operation:    r.Operation,
		Kind:         r.Kind,
		Outcome:      r.Outcome,
		Cause:        r.Cause,
		Actor:        r.Actor,
		Origin:       r.Origin,
		Mode:         string(r.Mode),
		Policy:       r.Policy,
		PolicyDigest: r.PolicyDigest,
		Steps:        steps(r.Steps),
		RulesHash:    r.RulesHash,
		DomainHash:   r.DomainHash,
		Volumes:      texts(r.Volumes),
		CleanPoint:   r.CleanPoint,
		Cut:          r.Cut,
		Previous:     r.Previous,
		Hash:         r.Hash,
	}
}

func policy(p daemon.PolicyInfo) wire.Policy {
	return wire.Policy{Name: p.Name, Source: p.Source, Digest: p.Digest, Comment: p.Comment, Secure: p.Secure, Rules: p.Rules, Capsules: p.Capsules}
}

func policyView(v daemon.PolicyView) wire.PolicyView {
	return wire.PolicyView{
		Policy:      policy(v.Policy),
		Kernel:      texts(v.Kernel),
		Differences: texts(v.Differences),
		Allowed:     wire.Traffic{Packets: v.Allowed.Packets, Bytes: v.Allowed.Bytes},
		Denied:      wire.Traffic{Packets: v.Denied.Packets, Bytes: v.Denied.Bytes},
	}
}

func explanation(e daemon.Explanation) wire.Explanation {
	return wire.Explanation{Packet: e.Packet, Policy: e.Policy, Allowed: e.Allowed, Line: e.Line, Source: e.Source, Why: e.Why}
}

func finding(f daemon.Finding) wire.Finding {
	return wire.Finding{Name: f.Name, OK: f.OK, Detail: f.Detail, Advice: f.Advice}
}

// texts is the list itself, and an empty one for nil, which would travel as null.
func texts(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
