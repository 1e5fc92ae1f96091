package daemon

import (
	"context"
	"time"
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
}

// Chain is the state of the records of switches, which are chained by hash: one that was altered or removed shows.
type Chain struct {
	Length int64
	Head   string // hash of the newest record
	Fault  string // "" when every record follows from the one before it
}

// SwitchRecord is what one switch left behind, for a data steward.
type SwitchRecord struct {
	Seq        int64
	At         time.Time
	Capsule    string
	Operation  string
	Kind       string // "enter", "leave", "hold", "readmit", "stop", ...
	Outcome    string // "succeeded" or "failed"
	Cause      string
	Actor      string
	Origin     string
	Mode       Mode // after it
	Policy     string
	Steps      []Step
	RulesHash  string
	DomainHash string
	Volumes    []string
	CleanPoint string
	Cut        int // conntrack entries removed
	Previous   string
	Hash       string
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

// The verbs below are being built; each says so until it is.
var errNotBuilt = errorf(Unsupported, "secure mode is not built yet")

// SwitchCapsule takes a running capsule to the other mode. review is for administrators: secure mode under the
// policy for review. Conflict when it is in that mode already, is not running, or is held.
func (d *Daemon) SwitchCapsule(ctx context.Context, c Caller, id string, mode Mode, review bool) (Operation, error) {
	return Operation{}, errNotBuilt
}

// ResumeCapsule brings a capsule that is held (ERROR with a mode) back: to the mode it was in when it can be proved
// safe there, else to maintenance from its clean point.
func (d *Daemon) ResumeCapsule(ctx context.Context, c Caller, id string) (Operation, error) {
	return Operation{}, errNotBuilt
}

// SetCapsuleType changes what a capsule is for, and with it, at once, the policy it is under. For administrators.
func (d *Daemon) SetCapsuleType(ctx context.Context, c Caller, id string, t Type) error {
	return errNotBuilt
}

// Prove looks at kernel and libvirt now. It changes nothing.
func (d *Daemon) Prove(ctx context.Context, c Caller, id string) (Proof, error) {
	return Proof{}, errNotBuilt
}

// SwitchRecords are the records of one capsule, newest first, 1000 at most.
func (d *Daemon) SwitchRecords(ctx context.Context, c Caller, id string) ([]SwitchRecord, error) {
	return nil, errNotBuilt
}

// Policies are the policies that are loaded. For administrators.
func (d *Daemon) Policies(ctx context.Context, c Caller) ([]PolicyInfo, error) {
	return nil, errNotBuilt
}

// ReloadPolicies reads the policy files again and puts them in force, all or none. For administrators.
func (d *Daemon) ReloadPolicies(ctx context.Context, c Caller) ([]PolicyInfo, error) {
	return nil, errNotBuilt
}

// ShowPolicy says what fences a capsule now. For administrators.
func (d *Daemon) ShowPolicy(ctx context.Context, c Caller, id string) (PolicyView, error) {
	return PolicyView{}, errNotBuilt
}

// ExplainPacket says what would become of a packet such as "tcp to 192.0.2.1:443" of a capsule.
func (d *Daemon) ExplainPacket(ctx context.Context, c Caller, id, packet string) (Explanation, error) {
	return Explanation{}, errNotBuilt
}

// Doctor looks for what makes the host unfit. For administrators.
func (d *Daemon) Doctor(ctx context.Context, c Caller) ([]Finding, error) { return nil, errNotBuilt }
