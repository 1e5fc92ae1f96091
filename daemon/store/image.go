package store

import (
	"database/sql"
	"time"
)

// ImageState is the caller's word; the store only keeps it.
type ImageState string

// Visibility is the caller's word; the store only keeps it.
type Visibility string

// Image is an image record.
type Image struct {
	ID            string
	Name          string
	Description   string
	State         ImageState
	Public        bool
	Owner         string
	Charged       bool
	Digest        string
	Format        string
	FileBytes     int64
	VirtualBytes  int64
	LoginUser     string
	LoginPassword string
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// InsertImage writes a new record; ErrTaken when a living image has its name.
func (t *Tx) InsertImage(i Image) error {
	_, err := t.exec(`INSERT INTO images (id, name, description, state, public, owner, charged, login_user, login_password, created_at, updated_at)
		VALUES (`+marks(11)+`)`, i.ID, i.Name, i.Description, i.State, i.Public, i.Owner, i.Charged, i.LoginUser, i.LoginPassword,
		stamp(i.CreatedAt), stamp(i.CreatedAt))
	return err
}

const imageQuery = `SELECT id, name, description, state, public, owner, charged, digest, format, file_bytes, virtual_bytes,
	login_user, login_password, created_at, updated_at FROM images WHERE deleted_at IS NULL `

func scanImage(s scanner) (i Image, err error) {
	var created, updated sql.NullInt64
	err = s.Scan(&i.ID, &i.Name, &i.Description, &i.State, &i.Public, &i.Owner, &i.Charged, &i.Digest, &i.Format, &i.FileBytes, &i.VirtualBytes,
		&i.LoginUser, &i.LoginPassword, &created, &updated)
	i.CreatedAt, i.UpdatedAt = unstamp(created), unstamp(updated)
	return i, err
}

// Image reads one record that is not deleted; ErrNotFound otherwise.
func (t *Tx) Image(id string) (Image, error) {
	return first(t, scanImage, imageQuery+`AND id = ?`, id)
}

// Images reads every record that is not deleted, oldest first.
func (t *Tx) Images() ([]Image, error) {
	return all(t, scanImage, imageQuery+`ORDER BY created_at, id`)
}

// FillImage writes what an import found, and moves the record from one state to another; ErrStale otherwise.
func (t *Tx) FillImage(i Image, from ImageState, at time.Time) error {
	return t.one(ErrStale, `UPDATE images SET state = ?, digest = ?, format = ?, file_bytes = ?, virtual_bytes = ?, updated_at = ?
		WHERE id = ? AND state = ? AND deleted_at IS NULL`,
		i.State, i.Digest, i.Format, i.FileBytes, i.VirtualBytes, stamp(at), i.ID, from)
}

// MoveImage changes the state of a record that is in state from; ErrStale otherwise.
func (t *Tx) MoveImage(id string, from, to ImageState, at time.Time) error {
	return t.one(ErrStale, `UPDATE images SET state = ?, updated_at = ? WHERE id = ? AND state = ? AND deleted_at IS NULL`,
		to, stamp(at), id, from)
}

// BuryImage marks a record deleted, which frees its name and its quota.
func (t *Tx) BuryImage(id string, state ImageState, at time.Time) error {
	return t.one(ErrNotFound, `UPDATE images SET state = ?, deleted_at = ?, updated_at = ?, charged = 0, login_password = ''
		WHERE id = ? AND deleted_at IS NULL`, state, stamp(at), stamp(at), id)
}

// DigestUsers counts the living images that have a digest.
func (t *Tx) DigestUsers(digest string) (int, error) {
	return first(t, func(s scanner) (n int, err error) { return n, s.Scan(&n) },
		`SELECT count(*) FROM images WHERE digest = ? AND deleted_at IS NULL`, digest)
}
