package store

import (
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// State, Mode, Type and Role are the caller's words; the store only keeps them.
type (
	State string
	Mode  string
	Type  string
	Role  string
)

// Capsule is a capsule record with what it holds.
type Capsule struct {
	ID            string
	Key           string
	Version       int64 // counts the record's moves
	State         State
	Mode          Mode
	Cause         string
	Provisioned   bool
	Charged       bool
	Type          Type
	Owner         string
	ImageID       string
	VCPUs         int
	MemoryMB      int
	VolumeGB      int
	SpoolGB       int
	Generation    string // vmgenid
	LoginUser     string
	LoginPassword string
	ImageUser     string // the image's first login
	ImagePassword string
	Consent       *bool
	About         About
	CreatedAt     time.Time
	DeletedAt     time.Time // zero while it lives
	Review        bool      // in secure mode under the policy for review
	CleanPoint    string    // id of the clean point; "" when there is none to go back to
	CleanStamp    string    // what the frozen disk looked like when it was taken

	SSHPort int    // 0 when none is held
	VNCPort int    // 0 when none is held
	Address string // "" when none is held
	MAC     string

	Image           Image // joined, read only
	OwnerFullAccess *bool // joined, read only: nil when it was never asked for
}

// About is what the researcher says of a capsule. Nil means never given.
type About struct {
	Title, DescNature, DescRequirement, DescLinks, DescOutsideData *string
	RRDataFiles, RRResultUsage, DescShared                         *string
}

// Member is a user's part in a capsule.
type Member struct {
	GUID       string
	Email      string // joined from the user
	Role       Role
	TOU        bool
	FullAccess *bool
}

// InsertCapsule writes a new record with its ports, address and owner; ErrTaken when one of them has a holder.
func (t *Tx) InsertCapsule(c Capsule, owner Member) error {
	a := c.About
	_, err := t.exec(`INSERT INTO capsules (id, key, state, mode, type, owner, image_id, vcpus, memory_mb, volume_gb, spool_gb,
		generation, login_user, login_password, image_user, image_password, consent, title, desc_nature, desc_requirement, desc_links, desc_outside_data,
		rr_data_files, rr_result_usage, desc_shared, created_at) VALUES (`+marks(26)+`)`,
		c.ID, c.Key, c.State, c.Mode, c.Type, c.Owner, c.ImageID, c.VCPUs, c.MemoryMB, c.VolumeGB, c.SpoolGB,
		c.Generation, c.LoginUser, c.LoginPassword, c.ImageUser, c.ImagePassword, c.Consent, a.Title, a.DescNature, a.DescRequirement, a.DescLinks, a.DescOutsideData,
		a.RRDataFiles, a.RRResultUsage, a.DescShared, stamp(c.CreatedAt))
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO ports (port, capsule, use) VALUES (?, ?, 'ssh'), (?, ?, 'vnc')`, c.SSHPort, c.ID, c.VNCPort, c.ID); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO addresses (address, mac, capsule) VALUES (?, ?, ?)`, c.Address, c.MAC, c.ID); err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO members (capsule, guid, role, tou, full_access) VALUES (?, ?, ?, ?, ?)`,
		c.ID, owner.GUID, owner.Role, owner.TOU, owner.FullAccess)
	return err
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

const capsuleQuery = `SELECT c.id, c.key, c.version, c.state, c.mode, c.cause, c.provisioned, c.charged, c.type, c.owner, c.image_id,
	c.vcpus, c.memory_mb, c.volume_gb, c.spool_gb, c.generation, c.login_user, c.login_password, c.image_user, c.image_password, c.consent,
	c.title, c.desc_nature, c.desc_requirement, c.desc_links, c.desc_outside_data, c.rr_data_files, c.rr_result_usage, c.desc_shared,
	c.created_at, c.deleted_at, c.review, c.clean_point, c.clean_stamp,
	coalesce((SELECT port FROM ports WHERE capsule = c.id AND use = 'ssh'), 0),
	coalesce((SELECT port FROM ports WHERE capsule = c.id AND use = 'vnc'), 0),
	coalesce(a.address, ''), coalesce(a.mac, ''),
	(SELECT full_access FROM members WHERE capsule = c.id AND guid = c.owner),
	i.name, i.digest, i.min_disk_gb
	FROM capsules c JOIN images i ON i.id = c.image_id LEFT JOIN addresses a ON a.capsule = c.id `

func scanCapsule(s scanner) (c Capsule, err error) {
	a := &c.About
	var created, deleted sql.NullInt64
	err = s.Scan(&c.ID, &c.Key, &c.Version, &c.State, &c.Mode, &c.Cause, &c.Provisioned, &c.Charged, &c.Type, &c.Owner, &c.ImageID,
		&c.VCPUs, &c.MemoryMB, &c.VolumeGB, &c.SpoolGB, &c.Generation, &c.LoginUser, &c.LoginPassword, &c.ImageUser, &c.ImagePassword, &c.Consent,
		&a.Title, &a.DescNature, &a.DescRequirement, &a.DescLinks, &a.DescOutsideData, &a.RRDataFiles, &a.RRResultUsage, &a.DescShared,
		&created, &deleted, &c.Review, &c.CleanPoint, &c.CleanStamp, &c.SSHPort, &c.VNCPort, &c.Address, &c.MAC, &c.OwnerFullAccess,
		&c.Image.Name, &c.Image.Digest, &c.Image.MinDiskGB)
	c.CreatedAt, c.DeletedAt = unstamp(created), unstamp(deleted)
	c.Image.ID = c.ImageID
	return c, err
}

// Capsule reads one record that is not deleted; ErrNotFound otherwise.
func (t *Tx) Capsule(id string) (Capsule, error) {
	return first(t, scanCapsule, capsuleQuery+`WHERE c.id = ? AND c.deleted_at IS NULL`, id)
}

// Capsules reads every record that is not deleted, oldest first.
func (t *Tx) Capsules() ([]Capsule, error) {
	return all(t, scanCapsule, capsuleQuery+`WHERE c.deleted_at IS NULL ORDER BY c.created_at, c.id`)
}

// CapsulesOf reads every record that is not deleted and in which guid has a role, oldest first.
func (t *Tx) CapsulesOf(guid string) ([]Capsule, error) {
	return all(t, scanCapsule, capsuleQuery+`JOIN members m ON m.capsule = c.id
		WHERE m.guid = ? AND c.deleted_at IS NULL ORDER BY c.created_at, c.id`, guid)
}

// MoveCapsule changes state, mode and cause of a record that is in one of the states from; ErrStale otherwise.
func (t *Tx) MoveCapsule(id string, from []State, to State, mode Mode, cause string) error {
	args := []any{to, mode, cause, id}
	for _, s := range from {
		args = append(args, s)
	}
	return t.one(ErrStale, `UPDATE capsules SET state = ?, mode = ?, cause = ?, version = version + 1
		WHERE id = ? AND deleted_at IS NULL AND state IN (`+marks(len(from))+`)`, args...)
}

// PutCleanPoint remembers that a clean point was taken, or with "" that there is none any more.
func (t *Tx) PutCleanPoint(id, cleanPoint, stamp string) error {
	return t.one(ErrNotFound, `UPDATE capsules SET clean_point = ?, clean_stamp = ? WHERE id = ?`, cleanPoint, stamp, id)
}

// PutReview notes whether a capsule is, or goes, under the policy for review when it is in secure mode.
func (t *Tx) PutReview(id string, review bool) error {
	return t.one(ErrNotFound, `UPDATE capsules SET review = ? WHERE id = ?`, review, id)
}

// PutType changes what a capsule is for.
func (t *Tx) PutType(id string, kind Type) error {
	return t.one(ErrNotFound, `UPDATE capsules SET type = ?, version = version + 1 WHERE id = ? AND deleted_at IS NULL`, kind, id)
}

// PutGeneration changes the vmgenid of the next start: the guest's history has forked.
func (t *Tx) PutGeneration(id, generation string) error {
	return t.one(ErrNotFound, `UPDATE capsules SET generation = ? WHERE id = ?`, generation, id)
}

// PutPassword changes the console's password.
func (t *Tx) PutPassword(id, password string) error {
	return t.one(ErrNotFound, `UPDATE capsules SET login_password = ? WHERE id = ?`, password, id)
}

// MarkProvisioned notes that everything the capsule owns was made.
func (t *Tx) MarkProvisioned(id string) error {
	return t.one(ErrNotFound, `UPDATE capsules SET provisioned = 1 WHERE id = ?`, id)
}

// ReleaseCapsule gives back what a capsule holds: ports, address and quota. It is idempotent.
func (t *Tx) ReleaseCapsule(id string) error {
	for _, q := range []string{
		`DELETE FROM ports WHERE capsule = ?`,
		`DELETE FROM addresses WHERE capsule = ?`,
		`UPDATE capsules SET charged = 0 WHERE id = ?`,
	} {
		if _, err := t.exec(q, id); err != nil {
			return err
		}
	}
	return nil
}

// BuryCapsule marks a record deleted at a time and destroys its secrets; the row stays for the audit trail.
func (t *Tx) BuryCapsule(id string, at time.Time) error {
	return t.one(ErrNotFound, `UPDATE capsules SET deleted_at = ?, login_password = '', image_password = '', generation = '' WHERE id = ? AND deleted_at IS NULL`,
		stamp(at), id)
}

// KeyTaken reports whether a capsule, living or deleted, has that key.
func (t *Tx) KeyTaken(key string) (bool, error) {
	var n int
	err := t.tx.QueryRowContext(t.ctx, `SELECT count(*) FROM capsules WHERE key = ?`, key).Scan(&n)
	return n > 0, wrap(err)
}

// HeldPorts returns every port that a capsule holds.
func (t *Tx) HeldPorts() (map[int]bool, error) {
	ports, err := all(t, func(s scanner) (p int, err error) { return p, s.Scan(&p) }, `SELECT port FROM ports`)
	return set(ports), err
}

// HeldAddresses returns every address that a capsule holds.
func (t *Tx) HeldAddresses() (map[string]bool, error) {
	addresses, err := all(t, func(s scanner) (a string, err error) { return a, s.Scan(&a) }, `SELECT address FROM addresses`)
	return set(addresses), err
}

func set[T comparable](list []T) map[T]bool {
	m := make(map[T]bool, len(list))
	for _, v := range list {
		m[v] = true
	}
	return m
}

// Members reads the members of every capsule that is not deleted, by capsule id, the owner first.
func (t *Tx) Members() (map[string][]Member, error) { return t.members(`WHERE c.deleted_at IS NULL`) }

// MembersOf reads the members of one capsule, in order of joining.
func (t *Tx) MembersOf(id string) ([]Member, error) {
	m, err := t.members(`WHERE m.capsule = ?`, id)
	return m[id], err
}

func (t *Tx) members(where string, args ...any) (map[string][]Member, error) {
	type row struct {
		capsule string
		Member
	}
	rows, err := all(t, func(s scanner) (r row, err error) {
		return r, s.Scan(&r.capsule, &r.GUID, &r.Email, &r.Role, &r.TOU, &r.FullAccess)
	}, `SELECT m.capsule, m.guid, u.email, m.role, m.tou, m.full_access
		FROM members m JOIN users u ON u.guid = m.guid JOIN capsules c ON c.id = m.capsule `+where+` ORDER BY m.rowid`, args...)
	if err != nil {
		return nil, fmt.Errorf("store: members: %w", err)
	}
	out := map[string][]Member{}
	for _, r := range rows {
		out[r.capsule] = append(out[r.capsule], r.Member)
	}
	return out, nil
}

// CapsulesEver counts the records of capsules, deleted ones too.
func (t *Tx) CapsulesEver() (int, error) {
	return first(t, func(s scanner) (n int, err error) { return n, s.Scan(&n) }, `SELECT count(*) FROM capsules`)
}

// CapsuleWas reports whether there ever was a record with that id, and whether it still lives: a creation that failed
// has given everything back, and lives no more.
func (t *Tx) CapsuleWas(id string) (ever, lives bool, err error) {
	n, err := first(t, func(s scanner) (n [2]int, err error) { return n, s.Scan(&n[0], &n[1]) },
		`SELECT count(*), count(*) FILTER (WHERE deleted_at IS NULL AND (charged OR provisioned)) FROM capsules WHERE id = ?`, id)
	return n[0] > 0, n[1] > 0, err
}

// CapsulesFrom lists the ids of the capsules that were made from an image and are in one of the states.
func (t *Tx) CapsulesFrom(image string, states ...State) ([]string, error) {
	args := []any{image}
	for _, s := range states {
		args = append(args, s)
	}
	return all(t, func(s scanner) (id string, err error) { return id, s.Scan(&id) },
		`SELECT id FROM capsules WHERE image_id = ? AND deleted_at IS NULL AND state IN (`+marks(len(states))+`) ORDER BY id`, args...)
}
