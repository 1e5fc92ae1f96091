package imagestore

// Digest identifies an image by its bytes: "sha256:" and 64 lower-case hex digits.
type Digest string

// Format is a disk format that the store takes in.
type Format string

const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// Image is a file in the store. It never changes.
type Image struct {
	Digest       Digest
	Format       Format
	FileBytes    int64 // length of the file
	VirtualBytes int64 // size of the disk that a guest sees
}

// File is one disk of a clone's directory, ready for a domain.
type File struct {
	Path   string
	Format Format
	// Base is the pinned backing file of an overlay, inside the same directory; "" for a file of its own.
	Base       string
	BaseFormat Format
	Method     string // "reflink" or "overlay"
}
