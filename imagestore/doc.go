// Package imagestore keeps image files and the disks that are cloned from them.
//
// An image is an immutable file named by the SHA-256 of its bytes. It is inspected under limits before it is
// taken in: raw or qcow2, no backing file, no data file, nothing foreign. A clone is a reflink where the file
// system can (FICLONE), else a qcow2 overlay whose base is held alive by a hard link in the clone's own
// directory, so that deleting an image never breaks a clone. Volumes are clones of an empty, formatted
// template. Nothing that a request waits for copies bytes.
//
// Order against crashes: bytes before the record, the record dropped before the bytes; [Store.Sweep] removes
// whatever no record names. The package knows nothing of domains, owners or states.
package imagestore
