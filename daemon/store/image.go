package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// ImageState is the caller's word; the store only keeps it.
type ImageState string

// Visibility is the caller's word; the store only keeps it.
type Visibility string

// Image is an image record.
type Image struct {
	ID            string
	Version       int64 // of its last change, in one sequence over all images
	Name          string
	Description   string
	State         ImageState
	Cause         string // why its bytes never came
	Visibility    Visibility
	Protected     bool
	Owner         string
	Charged       bool // counts against the owner's quota, in the states that do
	Digest        string
	Format        string
	FileBytes     int64
	VirtualBytes  int64
	MinDiskGB     int
	MinRAMMB      int
	Metadata      map[string]string
	SourceCapsule string
	LoginUser     string
	LoginPassword string
	AskedFormat   string // what its bytes must be; "" for whatever comes
	AskedDigest   string
	AskedBytes    int64    // how many were announced; -1 for none
	Upload        string   // of the image store; "" when no bytes are awaited in pieces, or none came yet
	Arrived       bool     // some of its bytes are there, or were
	Peers         []string // other hosts that have it
	CreatedAt     time.Time
	UpdatedAt     time.Time
	DeletedAt     time.Time // zero while it lives
}

// nextVersion is what every change of an image sets its version to; the index on versions makes it cheap.
const nextVersion = `(SELECT coalesce(max(version), 0) + 1 FROM images)`

// InsertImage writes a new record; ErrTaken when a living image has its name, or any its id.
func (t *Tx) InsertImage(i Image) error {
	metadata, peers, err := i.encoded()
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO images (id, name, description, state, visibility, protected, owner, charged, min_disk_gb, min_ram_mb, metadata,
		source_capsule, login_user, login_password, asked_format, asked_digest, asked_bytes, upload, arrived, peers, created_at, updated_at, version)
		VALUES (`+marks(22)+`, `+nextVersion+`)`,
		i.ID, i.Name, i.Description, i.State, i.Visibility, i.Protected, i.Owner, i.Charged, i.MinDiskGB, i.MinRAMMB, metadata,
		i.SourceCapsule, i.LoginUser, i.LoginPassword, i.AskedFormat, i.AskedDigest, i.AskedBytes, i.Upload, i.Arrived, peers,
		stamp(i.CreatedAt), stamp(i.CreatedAt))
	return err
}

// encoded are the columns that hold JSON; neither is ever null.
func (i Image) encoded() (metadata, peers string, err error) {
	m, p := i.Metadata, i.Peers
	if m == nil {
		m = map[string]string{}
	}
	if p == nil {
		p = []string{}
	}
	if metadata, err = compact(m); err != nil {
		return "", "", fmt.Errorf("store: metadata: %w", err)
	}
	if peers, err = compact(p); err != nil {
		return "", "", fmt.Errorf("store: peers: %w", err)
	}
	return metadata, peers, nil
}

// compact is JSON without the escapes for HTML, of which there is none here: they make six bytes of one.
func compact(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

const imageQuery = `SELECT id, version, name, description, state, cause, visibility, protected, owner, charged, digest, format, file_bytes, virtual_bytes,
	min_disk_gb, min_ram_mb, metadata, source_capsule, login_user, login_password, asked_format, asked_digest, asked_bytes, upload, arrived, peers,
	created_at, updated_at, deleted_at FROM images `

func scanImage(s scanner) (i Image, err error) {
	var created, updated, deleted sql.NullInt64
	var metadata, peers string
	if err = s.Scan(&i.ID, &i.Version, &i.Name, &i.Description, &i.State, &i.Cause, &i.Visibility, &i.Protected, &i.Owner, &i.Charged, &i.Digest, &i.Format, &i.FileBytes, &i.VirtualBytes,
		&i.MinDiskGB, &i.MinRAMMB, &metadata, &i.SourceCapsule, &i.LoginUser, &i.LoginPassword, &i.AskedFormat, &i.AskedDigest, &i.AskedBytes, &i.Upload, &i.Arrived, &peers,
		&created, &updated, &deleted); err != nil {
		return i, err
	}
	i.CreatedAt, i.UpdatedAt, i.DeletedAt = unstamp(created), unstamp(updated), unstamp(deleted)
	if err := json.Unmarshal([]byte(metadata), &i.Metadata); err != nil {
		return i, fmt.Errorf("metadata of image %s: %w", i.ID, err)
	}
	if err := json.Unmarshal([]byte(peers), &i.Peers); err != nil {
		return i, fmt.Errorf("peers of image %s: %w", i.ID, err)
	}
	return i, nil
}

// Image reads one record that is not deleted; ErrNotFound otherwise.
func (t *Tx) Image(id string) (Image, error) {
	return first(t, scanImage, imageQuery+`WHERE deleted_at IS NULL AND id = ?`, id)
}

// ImageEver reads one record, deleted or not; ErrNotFound when there never was one.
func (t *Tx) ImageEver(id string) (Image, error) {
	return first(t, scanImage, imageQuery+`WHERE id = ?`, id)
}

// ImagesEver counts the records of images, deleted ones too.
func (t *Tx) ImagesEver() (int, error) {
	return first(t, func(s scanner) (n int, err error) { return n, s.Scan(&n) }, `SELECT count(*) FROM images`)
}

// Images reads every record that is not deleted, oldest first.
func (t *Tx) Images() ([]Image, error) {
	return all(t, scanImage, imageQuery+`WHERE deleted_at IS NULL ORDER BY created_at, id`)
}

// ImagesChanged reads every record, deleted or not, that has changed since a version; but not those that were deleted
// before a time.
func (t *Tx) ImagesChanged(since int64, deleted time.Time) ([]Image, error) {
	return all(t, scanImage, imageQuery+`WHERE version > ? AND (deleted_at IS NULL OR deleted_at >= ?) ORDER BY version`, since, stamp(deleted))
}

// ImageNamed reads the living image that has a name; ErrNotFound when the name is free.
func (t *Tx) ImageNamed(name string) (Image, error) {
	return first(t, scanImage, imageQuery+`WHERE deleted_at IS NULL AND state <> 'DELETE_PENDING' AND name <> '' AND name = ?`, name)
}

// PutImage writes a record back that was read at the version it has: ErrStale when it has changed since, ErrTaken when
// another living image has its name. It has a greater version afterwards, and was updated at a time, or when it was
// before if that is later: what is asked for since a time is not missed because a clock was set back. Its owner, its
// source and what was asked for stay.
func (t *Tx) PutImage(i Image, at time.Time) error {
	metadata, peers, err := i.encoded()
	if err != nil {
		return err
	}
	return t.one(ErrStale, `UPDATE images SET name = ?, description = ?, state = ?, cause = ?, visibility = ?, protected = ?, digest = ?, format = ?,
		file_bytes = ?, virtual_bytes = ?, min_disk_gb = ?, min_ram_mb = ?, metadata = ?, login_user = ?, login_password = ?, upload = ?, arrived = ?,
		peers = ?, deleted_at = ?, updated_at = max(updated_at, ?), version = `+nextVersion+` WHERE id = ? AND version = ?`,
		i.Name, i.Description, i.State, i.Cause, i.Visibility, i.Protected, i.Digest, i.Format,
		i.FileBytes, i.VirtualBytes, i.MinDiskGB, i.MinRAMMB, metadata, i.LoginUser, i.LoginPassword, i.Upload, i.Arrived,
		peers, stamp(i.DeletedAt), stamp(at), i.ID, i.Version)
}

// BuryImage marks a record deleted, whatever it was read as: its name and its quota are free, its password and its metadata
// are destroyed, and its cause says why when it failed. The row stays, for the capsules that were made from it.
// ErrNotFound when it is deleted already.
func (t *Tx) BuryImage(id string, state ImageState, cause string, at time.Time) error {
	return t.one(ErrNotFound, `UPDATE images SET state = ?1, cause = ?2, deleted_at = ?3, updated_at = max(updated_at, ?3), charged = 0, login_password = '',
		metadata = '{}', upload = '', version = `+nextVersion+` WHERE id = ?4 AND deleted_at IS NULL`, state, cause, stamp(at), id)
}

// ForgetImages removes the records of an owner's deleted images, but for the newest so many and those that capsules were
// made from. It is called after a change in the same transaction: the greatest version must not be one that is removed.
func (t *Tx) ForgetImages(owner string, keep int) error {
	_, err := t.exec(`DELETE FROM images WHERE id IN (SELECT id FROM images WHERE owner = ? AND deleted_at IS NOT NULL
		ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET ?) AND id NOT IN (SELECT image_id FROM capsules)`, owner, keep)
	return err
}

// DigestUsers counts the living images that have a digest.
func (t *Tx) DigestUsers(digest string) (int, error) {
	return first(t, func(s scanner) (n int, err error) { return n, s.Scan(&n) },
		`SELECT count(*) FROM images WHERE digest = ? AND deleted_at IS NULL`, digest)
}

// ImageVersion reads the version of the last change of any image that is on the disk, as a transaction of its own: who
// keeps what was read asks for it each time, so it is prepared once.
func (db *DB) ImageVersion(ctx context.Context) (version int64, err error) {
	return version, wrap(db.imageVersion.QueryRowContext(ctx).Scan(&version))
}

const imageVersionQuery = `SELECT coalesce(max(version), 0) FROM images`
