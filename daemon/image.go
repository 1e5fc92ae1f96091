package daemon

import (
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// ImageState is an image's state, as in the capsule contract (section 7).
type ImageState = store.ImageState

const (
	ImagePending       ImageState = "SHARE_PENDING" // its bytes are on the way
	ImageActive        ImageState = "ACTIVE"
	ImageDeletePending ImageState = "DELETE_PENDING"
	ImageDeleted       ImageState = "DELETED"
	ImageError         ImageState = "ERROR"
)

// NewImage asks for an image from a file of this host. Only a local caller may.
type NewImage struct {
	Name          string
	Description   string
	Public        bool
	Path          string // absolute path of a regular file
	LoginUser     string // the image's first login, shown to those who use it
	LoginPassword string
}

// Image is an image record.
type Image struct {
	ID            string
	Name          string
	Description   string
	State         ImageState
	Public        bool
	Owner         string
	Digest        string // "sha256:..."; "" until ACTIVE
	Format        string // "raw" or "qcow2"; "" until ACTIVE
	FileBytes     int64
	VirtualBytes  int64
	LoginUser     string
	LoginPassword string
	CreatedAt     time.Time
	UpdatedAt     time.Time
}
