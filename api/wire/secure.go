package wire

import "time"

// CapsuleType asks PUT /v1/capsules/{id}/type for another type: DEMO, RESEARCH or RESEARCH-FULL.
type CapsuleType struct {
	Type string `json:"type"`
}

// Proof answers GET /v1/capsules/{id}/proof: kernel and libvirt as they are now, held against the promises. That
// something is not proved is an answer like any other, and comes with status 200.
type Proof struct {
	Capsule    string    `json:"capsule"`
	At         time.Time `json:"at"`
	State      string    `json:"state"`
	Mode       string    `json:"mode"`
	Policy     string    `json:"policy"`  // the one that should be in force
	Proved     bool      `json:"proved"`  // every check is ok
	Unknown    bool      `json:"unknown"` // some check could not be made, and none failed
	Checks     []Check   `json:"checks"`
	RulesHash  string    `json:"rules_hash"`  // SHA-256 of the rules in the kernel; "" when they could not be read
	DomainHash string    `json:"domain_hash"` // SHA-256 of the live domain XML; "" when nothing runs
	Volumes    []string  `json:"volumes"`     // serials of the data volumes in the live XML
	CleanPoint string    `json:"clean_point"` // its id; "" when there is none
	Records    Chain     `json:"records"`
}

// Check is one thing that a proof looked at.
type Check struct {
	Promise string `json:"promise"` // "P1", "P2" or "P3"
	What    string `json:"what"`
	Found   string `json:"found"`
	OK      bool   `json:"ok"`
	Unknown bool   `json:"unknown"` // it could not be looked at: neither proved nor disproved
}

// Chain is the state of the records of switches of the whole host, each of which holds the hash of the one before it.
type Chain struct {
	Length int64  `json:"length"`
	Head   string `json:"head"`  // hash of the newest record; "" when there is none
	Fault  string `json:"fault"` // where the chain is broken; "" when it is whole
}

// SwitchRecord is what one switch left behind, for a data steward.
type SwitchRecord struct {
	Seq       int64     `json:"seq"` // counts the records of the whole host, from 1
	At        time.Time `json:"at"`
	Capsule   string    `json:"capsule"`
	Operation string    `json:"operation"`
	Kind      string    `json:"kind"`
	Outcome   string    `json:"outcome"` // succeeded, failed; accepted: a change of the type, before it is in force
	Cause     string    `json:"cause"`
	Actor     string    `json:"actor"`
	Origin    string    `json:"origin"`
	Mode      string    `json:"mode"` // after it
	Policy    string    `json:"policy"`
	// SHA-256 of the policy's file, for its name does not say what it meant that day; "" for closed
	PolicyDigest string `json:"policy_digest"`

	Steps      []Step   `json:"steps"`
	RulesHash  string   `json:"rules_hash"`
	DomainHash string   `json:"domain_hash"`
	Volumes    []string `json:"volumes"`
	CleanPoint string   `json:"clean_point"`
	Cut        *int     `json:"cut"`      // connections that were cut; null when nobody knows how many, and for others than administrators
	Previous   string   `json:"previous"` // hash of the record before it, whatever capsule that is of
	Hash       string   `json:"hash"`
}

// SwitchRecordList answers GET /v1/capsules/{id}/records, newest first.
type SwitchRecordList struct {
	Records []SwitchRecord `json:"records"`
}

// Policy is a policy that is loaded.
type Policy struct {
	Name     string `json:"name"`
	Source   string `json:"source"` // the file that it was read from
	Digest   string `json:"digest"` // SHA-256 of that file
	Comment  string `json:"comment"`
	Secure   bool   `json:"secure"` // may be in force while protected data is attached
	Rules    int    `json:"rules"`
	Capsules int    `json:"capsules"` // that are under it now
}

// PolicyList answers GET /v1/policies and POST /v1/policies/reload.
type PolicyList struct {
	Policies []Policy `json:"policies"`
}

// PolicyView answers GET /v1/capsules/{id}/policy: what should fence a capsule, and what the kernel has.
type PolicyView struct {
	Policy      Policy   `json:"policy"`
	Kernel      []string `json:"kernel"`      // the rules in the kernel, a line each, headed by their layer
	Differences []string `json:"differences"` // what is not as it should be
	Allowed     Traffic  `json:"allowed"`
	Denied      Traffic  `json:"denied"`
}

// Traffic counts what went from and to a capsule since its rules were last written.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Explanation answers GET /v1/capsules/{id}/policy/explain.
type Explanation struct {
	Packet  string `json:"packet"` // as understood
	Policy  string `json:"policy"`
	Allowed bool   `json:"allowed"`
	Line    int    `json:"line"` // of the rule in Source; 0 when no rule decided
	Source  string `json:"source"`
	Why     string `json:"why"`
}

// Finding is one thing of the host that matters, and whether it is as it should be.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Advice string `json:"advice"` // "" when it is
}

// FindingList answers GET /v1/doctor.
type FindingList struct {
	Findings []Finding `json:"findings"`
}
