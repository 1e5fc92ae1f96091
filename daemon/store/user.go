package store

import "time"

// User is a user record, made when a caller first holds something.
type User struct {
	GUID   string
	Email  string
	TOU    bool
	HasKey bool
}

// PutUser makes the record of a user, or updates the e-mail address if one is given.
func (t *Tx) PutUser(guid, email string) error {
	_, err := t.exec(`INSERT INTO users (guid, email) VALUES (?, ?)
		ON CONFLICT (guid) DO UPDATE SET email = excluded.email WHERE excluded.email <> ''`, guid, email)
	return err
}

// User reads one user; ErrNotFound when the user never held anything.
func (t *Tx) User(guid string) (User, error) {
	return first(t, func(s scanner) (u User, err error) {
		return u, s.Scan(&u.GUID, &u.Email, &u.TOU, &u.HasKey)
	}, `SELECT guid, email, tou, public_key IS NOT NULL FROM users WHERE guid = ?`, guid)
}

// Usage is what a user's records are charged for.
type Usage struct {
	CPUs, MemoryMB, DiskGB, Images int
}

// Usage adds up what guid holds; of images those that are charged at all and in one of the states. It is computed, not
// counted, so it cannot drift from the records.
func (t *Tx) Usage(guid string, images ...ImageState) (Usage, error) {
	args := []any{guid}
	for _, s := range images {
		args = append(args, s)
	}
	return first(t, func(s scanner) (u Usage, err error) {
		return u, s.Scan(&u.CPUs, &u.MemoryMB, &u.DiskGB, &u.Images)
	}, `SELECT coalesce(sum(vcpus), 0), coalesce(sum(memory_mb), 0), coalesce(sum(volume_gb), 0),
		(SELECT count(*) FROM images WHERE owner = ?1 AND charged AND deleted_at IS NULL AND state IN (`+marks(len(images))+`))
		FROM capsules WHERE owner = ?1 AND charged AND deleted_at IS NULL`, args...)
}

// Act is one row of the audit trail.
type Act struct {
	Seq     int64
	At      time.Time
	Actor   string // guid, or "daemon"
	Origin  string // from where
	Request string // request id
	Action  string
	Target  string
	Outcome string // "accepted", "refused", "succeeded", "failed"
	Detail  string
}

// Audit appends one act.
func (t *Tx) Audit(a Act) error {
	_, err := t.exec(`INSERT INTO audit (at, actor, origin, request, action, target, outcome, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		stamp(a.At), a.Actor, a.Origin, a.Request, a.Action, a.Target, a.Outcome, a.Detail)
	return err
}
