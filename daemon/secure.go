package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
)

// Check is one thing that a proof looked at.
type Check struct {
	Promise string // "P1", "P2" or "P3"
	What    string // what was looked at
	Found   string // what it said
	OK      bool
	Unknown bool // it could not be looked at: neither proved nor disproved
}

// Proof is the present state of kernel and libvirt against promises P1 to P3.
type Proof struct {
	Capsule    string
	At         time.Time
	State      State
	Mode       Mode
	Policy     string // the one that should be in force
	Proved     bool   // every check is OK
	Unknown    bool   // some check could not be made, and none failed
	Checks     []Check
	RulesHash  string   // SHA-256 of the rules as the kernel has them; "" when they could not be read
	DomainHash string   // SHA-256 of the live domain XML; "" when nothing runs
	Volumes    []string // serials of the data volumes in the live XML
	CleanPoint string   // id of the clean point; "" when there is none
	Records    Chain

	running    bool // the domain has a process
	denied     denied
	rulesAlone bool // nothing failed but that rules in the kernel, or the tap's link, are not those of the policy
}

// Chain is the state of the records of switches, which are chained by hash: one that was altered or removed shows.
type Chain struct {
	Length int64
	Head   string // hash of the newest record
	Fault  string // "" when every record follows from the one before it
}

// SwitchRecord is what one switch left behind, for a data steward.
type SwitchRecord struct {
	Seq          int64     `json:"-"`
	At           time.Time `json:"-"`
	Capsule      string    `json:"-"`
	Operation    string    `json:"-"`
	Kind         string    // "enter", "leave", "hold", "readmit", "stop", ...
	Outcome      string    // "succeeded" or "failed"
	Cause        string    // why it failed, or why the daemon began it, or what is not as it should be all the same
	Actor        string
	Origin       string
	State        State // after it
	Mode         Mode  // after it
	Policy       string
	PolicyDigest string // SHA-256 of the policy's file; "" for closed
	Steps        []Step
	RulesHash    string
	DomainHash   string
	Volumes      []string
	CleanPoint   string
	Cut          *int   // conntrack entries removed; nil when nobody knows how many, or the reader may not know
	Previous     string `json:"-"`
	Hash         string `json:"-"`
}

// PolicyInfo is a policy that is loaded.
type PolicyInfo struct {
	Name     string
	Source   string
	Digest   string
	Comment  string
	Secure   bool
	Rules    int
	Capsules int // that are under it now
}

// PolicyView is what fences one capsule: what should be, and what the kernel has.
type PolicyView struct {
	Policy      PolicyInfo
	Kernel      []string // the rules in the kernel, a line each, headed by their layer
	Differences []string // what is not as it should be; empty when all is well
	Allowed     Traffic
	Denied      Traffic
}

// Traffic counts packets and bytes from and to a capsule since its rules were last written.
type Traffic struct{ Packets, Bytes uint64 }

// Explanation says what becomes of one packet and why.
type Explanation struct {
	Packet  string // as understood
	Policy  string
	Allowed bool
	Line    int // of the rule in Source; 0 when no rule decided
	Source  string
	Why     string
}

// Finding is one line of the doctor: a thing of the host that matters, and whether it is as it should be.
type Finding struct {
	Name   string // such as "iptables-legacy"
	OK     bool
	Detail string
	Advice string // "" when OK
}

// SwitchCapsule takes a running capsule to the other mode. review is for administrators: secure mode under the policy
// for review. Conflict when it is in that mode already, is not running, or is held.
func (d *Daemon) SwitchCapsule(ctx context.Context, c Caller, id string, mode Mode, review bool) (op Operation, err error) {
	kinds := map[Mode]string{Secure: opEnter, Maintenance: opLeave}
	kind := kinds[mode]
	defer d.refused(ctx, c, cmp.Or(kind, "switch"), id, &err)
	switch {
	case kind == "":
		return op, errorf(Invalid, "mode %q is unknown: it must be %s or %s", clip(string(mode)), Maintenance, Secure)
	case review && mode != Secure:
		return op, errorf(Invalid, "review goes with mode %s alone", Secure)
	case review && !c.admin():
		return op, errorf(Forbidden, "only an administrator takes a capsule to secure mode for review")
	}
	argument := ""
	if kind == opEnter {
		argument = encode(entry{Review: review})
	}
	return d.askWith(ctx, c, kind, id, argument)
}

// ResumeCapsule brings a capsule that is held (ERROR with a mode) back: to the mode it is held in when its process is
// still there and can be proved safe, else to maintenance from its clean point.
func (d *Daemon) ResumeCapsule(ctx context.Context, c Caller, id string) (op Operation, err error) {
	kind := opReadmit
	defer d.refused(ctx, c, kind, id, &err)
	var capsule store.Capsule
	if err := d.inspecting(ctx, c, id, func(_ *store.Tx, found store.Capsule) error { capsule = found; return nil }); err != nil {
		return op, err
	}
	if !held(capsule) {
		return op, errorf(Conflict, "capsule %s is %s and is not held: there is nothing to resume", id, capsule.State)
	}
	looking, cancel := context.WithTimeout(ctx, observeLimit)
	defer cancel()
	seen, err := d.domains.Inspect(looking, domain.ID(id))
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return op, err
	}
	if !slices.Equal(serials(seen.Live), attached[capsule.Mode]) { // it is not where it was any more
		if kind = opLeave; capsule.CleanPoint == "" {
			return op, errorf(Conflict, "capsule %s has no clean point to go back to: stop it, then launch it", id)
		}
	}
	return d.askWith(ctx, c, kind, id, "")
}

// SetCapsuleType changes what a capsule is for, and with it, at once, the policy it is under. Where the policy cannot be put in
// force the type stays as it was, and says so; a capsule that cannot be put back under its old policy either is held. For
// administrators.
func (d *Daemon) SetCapsuleType(ctx context.Context, c Caller, id string, t Type) (err error) {
	const kind = "set-type"
	accepted := false // what fails from then on has rows of its own
	defer func() {
		if !accepted {
			d.refused(ctx, c, kind, id, &err)
		}
	}()
	if !slices.Contains([]Type{Demo, Research, ResearchFull}, t) {
		return errorf(Invalid, "type %q is unknown: it must be %s, %s or %s", clip(string(t)), Demo, Research, ResearchFull)
	}
	if !c.admin() {
		return errorf(Forbidden, "only an administrator changes the type of a capsule")
	}
	r := retyping{d: d, c: c, kind: kind, id: id, to: t}
	accepted, err = r.run(ctx)
	if r.stuck != nil {
		r.capsule.Version = anyVersion // what was read may have been taken back
		d.hold(context.WithoutCancel(ctx), r.capsule, "its type was to be changed, and it could not be put back under its policy: "+classify(r.stuck).Message)
	}
	return err
}

// retyping is a change of the type of a capsule.
type retyping struct {
	d    *Daemon
	c    Caller
	kind string
	id   string
	to   Type

	capsule store.Capsule // as it was read last
	stuck   error         // why it is closed against its record
}

// run closes the capsule before the record names another policy, and opens it after. Whenever the daemon dies, what the
// kernel lets through is what the newest record of the chain says, or less; the next start puts the type that is on
// record in force.
func (r *retyping) run(ctx context.Context) (accepted bool, err error) {
	if err := r.d.fenceMu.take(ctx); err != nil { // so that nobody puts the old policy back between record and rules
		return false, err
	}
	defer r.d.fenceMu.release()
	ctx = context.WithoutCancel(ctx) // whoever gives up meanwhile, the rules follow the record
	if err := r.d.store.View(ctx, r.read); err != nil {
		return false, err
	}
	was, next := r.capsule, r.capsule
	next.Type = r.to
	outcome := "succeeded"
	if inForce(was) != inForce(next) {
		outcome = "accepted"
		defer func() {
			if err != nil && r.stuck == nil {
				r.stuck = within(ctx, stepLimit, r.d.refenceLocked)
			}
		}()
		if err := r.put(ctx, firewall.Closed); err != nil {
			return false, err
		}
	}
	detail := fmt.Sprintf("from %s to %s", was.Type, r.to)
	err = r.d.store.Update(ctx, func(tx *store.Tx) error {
		if err := r.read(tx); err != nil {
			return err
		}
		if r.capsule.Version != was.Version {
			return errorf(Busy, "capsule %s was just changed otherwise, try again", r.id)
		}
		return r.write(tx, r.to, outcome, detail, nil)
	})
	if err != nil || outcome == "succeeded" {
		return err == nil, err
	}
	delete(r.d.opened, r.id) // of an operation that has ended
	if err := r.put(ctx, inForce(next)); err != nil {
		why := classify(err)
		err = &Error{Code: why.Code, Message: fmt.Sprintf("capsule %s keeps its type %s, since policy %s could not be put in force: %s", r.id, was.Type, inForce(next), why.Message), Err: err}
		r.stuck = r.d.store.Update(ctx, func(tx *store.Tx) error { return r.write(tx, was.Type, "failed", detail+": "+why.Message, why) })
		return true, err
	}
	err = r.d.store.Update(ctx, func(tx *store.Tx) error { return r.write(tx, r.to, "succeeded", detail, nil) })
	if err != nil {
		why := classify(err)
		err = &Error{Code: why.Code, Message: "the type is changed and its policy in force, and that could not be written down yet: " + why.Message, Err: err}
	}
	return true, err
}

// read reads the capsule, and refuses one that something else is done to.
func (r *retyping) read(tx *store.Tx) (err error) {
	if r.capsule, err = tx.Capsule(r.id); err != nil {
		return missing(err, "no capsule %s", clip(r.id))
	}
	if hides(r.c, r.capsule.State) {
		return errorf(NotFound, "no capsule %s", clip(r.id))
	}
	open, err := tx.OpenOperation(r.id)
	switch {
	case err == nil:
		return errorf(Busy, "capsule %s is busy: %s has been under way since %s", r.id, open.Kind, open.Started.Format("15:04:05 MST"))
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if policy, ok := r.d.opened[r.id]; r.capsule.State == Running && r.d.noted(r.id) || ok && policy == firewall.Closed && inForce(r.capsule) != policy { // by closeNow
		return r.closed()
	}
	return nil
}

func (r *retyping) closed() error {
	return errorf(Busy, "capsule %s is closed, for it could not be proved safe, and is about to be held", r.id)
}

// write writes a type down, with what came of the change so far, for the steward and in the audit trail.
func (r *retyping) write(tx *store.Tx, t Type, outcome, detail string, cause *Error) error {
	if t != r.capsule.Type {
		if err := tx.PutType(r.id, t); err != nil {
			return err
		}
	}
	var err error
	if r.capsule, err = tx.Capsule(r.id); err != nil {
		return err
	}
	return errors.Join(r.d.recordPolicy(tx, r.c, r.kind, r.capsule, outcome, cause),
		tx.Audit(auditRow(r.c.GUID, r.c.From, r.c.Request, r.kind, r.id, outcome, detail)))
}

func (r *retyping) put(ctx context.Context, policy string) error {
	if policy != firewall.Closed && r.d.noted(r.id) { // since it was read
		return r.closed()
	}
	b, err := binding(r.capsule, policy)
	if err != nil {
		return err
	}
	return r.d.fences.Put(ctx, b)
}

// inspecting reads a capsule for a caller who may look into it: its members with full standing, and administrators.
func (d *Daemon) inspecting(ctx context.Context, c Caller, id string, look func(*store.Tx, store.Capsule) error) error {
	if c.GUID == "" {
		return errorf(Unauthorized, "who asks is not known")
	}
	if _, err := uuid.Parse(id); err != nil {
		return errorf(Invalid, "%q is not a capsule id: a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10 is", clip(id))
	}
	return d.view(ctx, func(tx *store.Tx) error {
		capsule, err := tx.Capsule(id)
		if err != nil {
			return missing(err, "no capsule %s", id)
		}
		members, err := tx.MembersOf(id)
		if err != nil {
			return err
		}
		s := stand(c, members)
		if !s.known || hides(c, capsule.State) {
			return errorf(NotFound, "no capsule %s", id)
		}
		if !s.full {
			return errorf(Forbidden, "you may know that capsule %s exists, and not more", id)
		}
		return look(tx, capsule)
	})
}

// Prove looks at kernel and libvirt now, and at the chain of the records. It changes nothing. Where the record moves while it
// looks it looks once more, and answers unknown if that was so again.
func (d *Daemon) Prove(ctx context.Context, c Caller, id string) (Proof, error) {
	var capsule store.Capsule
	read := func(s *whereabouts) error {
		return d.inspecting(ctx, c, id, func(tx *store.Tx, found store.Capsule) (err error) {
			capsule = found
			*s, err = whereaboutsOf(tx, found)
			return err
		})
	}
	var before, after whereabouts
	if err := read(&before); err != nil { // who may not know waits for nothing
		return Proof{}, err
	}
	// Each reads all rules under the lock that the watcher needs to put them back: callers wait for one another.
	select {
	case d.proofs <- struct{}{}:
		defer func() { <-d.proofs }()
	case <-ctx.Done():
		return Proof{}, errorf(Unavailable, "too many proofs are asked for at once, try again")
	}
	var p Proof
	for range 2 {
		if err := read(&before); err != nil { // now: the turn may have come late
			return Proof{}, err
		}
		p = d.examine(ctx, capsule, inForce(capsule))
		if err := read(&after); err != nil {
			return Proof{}, err
		}
		if before == after {
			break
		}
	}
	if before != after {
		p.outdate()
	}
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		p.Records.Length, p.Records.Head, p.Records.Fault, err = tx.CheckSwitches()
		return err
	})
	if p.Records.Fault != "" {
		p.Proved, p.Unknown = false, false
		p.Checks = append(p.Checks, Check{Promise: "P2", What: "chain of the records of switches", Found: p.Records.Fault})
	}
	return p, err
}
