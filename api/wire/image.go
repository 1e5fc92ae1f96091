package wire

import "time"

// NewImage asks POST /v1/images for an image. Its bytes come from the file Path of the daemon's host, from URL, or, when
// neither is given, by PUT /v1/images/{id}/file.
type NewImage struct {
	Name          string            `json:"name"`
	Description   string            `json:"description,omitempty"`
	Public        bool              `json:"public"`               // the same as visibility public
	Visibility    string            `json:"visibility,omitempty"` // private (as ""), public, shared, community
	Protected     bool              `json:"protected,omitempty"`
	MinDiskGB     int               `json:"min_disk_gb,omitempty"`
	MinRAMMB      int               `json:"min_ram_mb,omitempty"`
	Format        string            `json:"format,omitempty"` // what the bytes must be, raw or qcow2; "" takes either
	Digest        string            `json:"digest,omitempty"` // what the bytes must be, sha256: and 64 hex digits
	Bytes         *int64            `json:"bytes,omitempty"`  // how many will be sent, if that is known; for what is sent alone
	Metadata      map[string]string `json:"metadata,omitempty"`
	Path          string            `json:"path,omitempty"`
	URL           string            `json:"url,omitempty"`
	LoginUser     string            `json:"login_user,omitempty"`
	LoginPassword string            `json:"login_password,omitempty"`
}

// Image is an image record. Digest, format and sizes are empty until State is ACTIVE.
type Image struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Description   string            `json:"description"`
	State         string            `json:"state"` // SHARE_PENDING, ACTIVE, DELETE_PENDING, DELETED, ERROR
	Cause         string            `json:"cause"` // why its bytes never came: in ERROR, and DELETED after it
	Public        bool              `json:"public"`
	Visibility    string            `json:"visibility"`
	Protected     bool              `json:"protected"`
	Owner         string            `json:"owner"`
	Digest        string            `json:"digest"`
	Format        string            `json:"format"`
	FileBytes     int64             `json:"file_bytes"`
	VirtualBytes  int64             `json:"virtual_bytes"`
	MinDiskGB     int               `json:"min_disk_gb"`
	MinRAMMB      int               `json:"min_ram_mb"`
	Metadata      map[string]string `json:"metadata"`
	SourceCapsule string            `json:"source_capsule"` // the capsule that it was shared from; "" for none
	LoginUser     string            `json:"login_user"`
	LoginPassword string            `json:"login_password"`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
	DeletedAt     *time.Time        `json:"deleted_at"` // null while it lives
}

// ImageList answers GET /v1/images, newest first.
type ImageList struct {
	Images []Image `json:"images"`
	More   bool    `json:"more"` // there are more: ask again with the last one's id as marker
}

// ImageChange asks PATCH /v1/images/{id} for a change. What is absent stays as it is.
type ImageChange struct {
	Name            *string           `json:"name,omitempty"`
	Description     *string           `json:"description,omitempty"`
	Visibility      *string           `json:"visibility,omitempty"`
	Protected       *bool             `json:"protected,omitempty"`
	MinDiskGB       *int              `json:"min_disk_gb,omitempty"`
	MinRAMMB        *int              `json:"min_ram_mb,omitempty"`
	LoginUser       *string           `json:"login_user,omitempty"`
	LoginPassword   *string           `json:"login_password,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`         // added, or written over
	RemoveMetadata  []string          `json:"remove_metadata,omitempty"`  // each must be there
	ReplaceMetadata bool              `json:"replace_metadata,omitempty"` // metadata is all that there is afterwards
}

// NewShare asks POST /v1/capsules/{id}/share for an image of a capsule's disk.
type NewShare struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Public      bool   `json:"public"`
}

// ImageUpload answers PUT /v1/images/{id}/file while more is awaited.
type ImageUpload struct {
	Received int64 `json:"received"`
	Bytes    int64 `json:"bytes"` // how many were announced; -1 when that is not known
}

// ImageWaste is an image that POST /v1/images/gc removes, or with dry_run would remove, or that is deleted and stays for now.
type ImageWaste struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"` // that the disk has back; 0 while something else has the same bytes
	Kept   string `json:"kept"`  // why it stays; "" when it goes
}

// ImageWasteList answers POST /v1/images/gc.
type ImageWasteList struct {
	DryRun bool         `json:"dry_run"`
	Waste  []ImageWaste `json:"waste"`
}

// Headers of the bytes of an image.
const (
	// UploadOffsetHeader is where the bytes of a PUT go; in replies, how many there are.
	UploadOffsetHeader = "Upload-Offset"
	// UploadLengthHeader is, in replies, how many were announced; absent when that is not known.
	UploadLengthHeader = "Upload-Length"
	// ReprDigestHeader is the SHA-256 of the whole image, whatever part of it is sent (RFC 9530).
	ReprDigestHeader = "Repr-Digest"
)
