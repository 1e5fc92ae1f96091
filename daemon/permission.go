package daemon

import (
	"slices"

	"github.com/capsuled/capsuled/daemon/store"
)

// allowed says which roles may ask for which operation (capsule contract, section 6.3).
var allowed = map[string][]Role{
	opLaunch:  {OwnerController, Controller},
	opEnter:   {OwnerController, Controller},
	opLeave:   {OwnerController, Controller},
	opReadmit: {}, // a capsule that could not be proved safe is an administrator's to look at
	opStop:    {OwnerController, Controller},
	opDelete:  {OwnerController, Owner},

	opImageShare: {OwnerController, Owner},
}

// hides says which capsules are as good as gone for a caller. One whose deletion failed is shown to administrators, who
// can ask for it once more.
func hides(c Caller, s State) bool {
	return hidden[s] && !c.self && !(s == DeleteError && c.admin())
}

// standing is what a caller is to a capsule.
type standing struct {
	member Member // zero for an administrator without a role
	owner  Member
	known  bool // may know that the capsule exists
	full   bool // may know what it is, and act as the role allows
}

// stand finds a caller among the members of a capsule. A member must have accepted the terms of use, and in a capsule
// with full access must have been granted it.
func stand(c Caller, members []Member) standing {
	var s standing
	for _, m := range members {
		if m.Role == OwnerController || m.Role == Owner {
			s.owner = m
		}
		if m.GUID == c.GUID {
			s.member, s.known = m, true
		}
	}
	ownerFull := s.owner.FullAccess != nil && *s.owner.FullAccess
	ownFull := s.member.FullAccess != nil && *s.member.FullAccess
	s.full = s.known && s.member.TOU && (!ownerFull || ownFull)
	if c.admin() {
		s.known, s.full = true, true
	}
	return s
}

// may reads a capsule for a caller who asks for an operation on it, and refuses in the order of the contract: unknown
// first, then the permission.
func (d *Daemon) may(tx *store.Tx, c Caller, kind, id string) (store.Capsule, error) {
	capsule, err := tx.Capsule(id)
	if err != nil {
		return capsule, missing(err, "no capsule %s", id)
	}
	members, err := tx.MembersOf(id)
	if err != nil {
		return capsule, err
	}
	s := stand(c, members)
	if !s.known || hides(c, capsule.State) {
		return capsule, errorf(NotFound, "no capsule %s", id)
	}
	if c.admin() || s.full && slices.Contains(allowed[kind], s.member.Role) {
		return capsule, nil
	}
	return capsule, errorf(Forbidden, "your role in capsule %s does not allow %s", id, spoken(kind))
}
