package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// witnessed says which operations leave a record for the data steward: every one that begins or ends in secure mode, or
// is about what cannot be proved.
func (a *act) witnessed() bool {
	switch a.proc.kind {
	case opEnter, opLeave, opHold, opReadmit:
		return true
	}
	return a.capsule.Mode == Secure || a.capsule.CleanPoint != ""
}

// testify appends the record of a switch to the chain, in the transaction that writes what came of it.
func (a *act) testify(tx *store.Tx, state State, mode Mode, cause *Error) error {
	if !a.witnessed() {
		return nil
	}
	now := time.Now()
	r := SwitchRecord{
		At: now, Capsule: a.op.Target, Operation: a.op.ID, Kind: a.proc.kind, Outcome: "succeeded", Actor: a.op.Actor, Origin: a.op.Origin,
		State: state, Mode: mode, Policy: a.proof.Policy, PolicyDigest: a.d.digestOf(a.proof.Policy), Steps: a.op.Steps, RulesHash: a.proof.RulesHash, DomainHash: a.proof.DomainHash,
		Volumes: a.proof.Volumes, CleanPoint: cmp.Or(a.proof.CleanPoint, a.pointBefore), Cut: a.op.Cut, Cause: a.op.Reserved,
	}
	if why, err := argument[reason](a); err == nil && why.Cause != "" { // begun by the daemon itself
		r.Cause = why.Cause
	}
	if cause != nil {
		r.Outcome, r.Cause = "failed", cause.Message+a.still()
	}
	return a.d.record(tx, r)
}

// record appends to the chain.
func (d *Daemon) record(tx *store.Tx, r SwitchRecord) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("daemon: record of capsule %s: %w", r.Capsule, err)
	}
	s, err := tx.AppendSwitch(r.Capsule, r.Operation, string(body), r.At)
	if err != nil {
		return err
	}
	// The log is kept elsewhere: whoever writes the chain anew cannot write it anew there.
	d.log.LogAttrs(context.Background(), slog.LevelInfo, "switch recorded", slog.String("capsule", r.Capsule), slog.String("operation", r.Operation),
		slog.String("kind", r.Kind), slog.Int64("record", s.Seq), slog.String("hash", s.Hash))
	return nil
}

// digestOf is the digest of a policy that is loaded: its name does not say what it meant that day.
func (d *Daemon) digestOf(name string) string {
	p, _ := d.policy(name)
	return p.Digest
}

// recordPolicy leaves a record of a capsule in secure mode whose policy is another one, or says something else, from now
// on; cause says why that failed.
func (d *Daemon) recordPolicy(tx *store.Tx, who Caller, kind string, c store.Capsule, outcome string, cause *Error) error {
	if c.Mode != Secure {
		return nil
	}
	name := policyWord(inForce(c))
	r := SwitchRecord{At: time.Now(), Capsule: c.ID, Operation: who.Request, Kind: kind, Outcome: outcome, Actor: who.GUID, Origin: who.From,
		State: c.State, Mode: c.Mode, Policy: name, PolicyDigest: d.digestOf(name), CleanPoint: c.CleanPoint}
	if cause != nil {
		r.Cause = cause.Message
	}
	return d.record(tx, r)
}

// SwitchRecords are the records of one capsule, newest first, 1000 at most. They outlive it, for administrators. To others
// they do not tell what its guest could choose (see bare).
func (d *Daemon) SwitchRecords(ctx context.Context, c Caller, id string) ([]SwitchRecord, error) {
	var out []SwitchRecord
	read := func(tx *store.Tx) error {
		rows, err := tx.Switches(id, 1000)
		if err != nil {
			return err
		}
		for _, row := range rows {
			var r SwitchRecord
			if err := json.Unmarshal([]byte(row.Body), &r); err != nil {
				r = SwitchRecord{Cause: "the record cannot be read: " + err.Error()}
			}
			r.Seq, r.At, r.Capsule, r.Operation, r.Previous, r.Hash = row.Seq, row.At, row.Capsule, row.Operation, row.Previous, row.Hash
			if !c.admin() {
				r.Steps, r.Cut = bare(r.Steps), nil
			}
			out = append(out, r)
		}
		return nil
	}
	err := d.inspecting(ctx, c, id, func(tx *store.Tx, _ store.Capsule) error { return read(tx) })
	if e := classify(err); e != nil && e.Code == NotFound && c.admin() {
		if gone := d.view(ctx, read); gone != nil || len(out) > 0 {
			return out, gone
		}
	}
	return out, err
}
