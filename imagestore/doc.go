// Package imagestore keeps image files and the disks that are cloned from them.
//
// An image is an immutable file named by the SHA-256 of its bytes. It is inspected under limits before it is
// taken in: raw or qcow2, no backing file, no data file, no internal snapshot, nothing foreign, nothing cut
// short as far as the format can tell. A clone is a reflink where the file system can (FICLONE), else a qcow2
// overlay whose base is held alive by a hard link in the clone's own directory, so that deleting an image never
// breaks a clone. Volumes are clones of an empty, formatted template. Nothing that a request waits for copies
// bytes.
//
//	images/<sha256>.<format>        an image, root:reader group 0440
//	images/incoming/                imports under way, emptied by a sweep
//	    upload.<id>.<bytes>.<sha256>.<boot>   an upload that waits for more, for a day
//	templates/<volume>.raw          formatted volumes, 0440
//	capsules/<key>/                 a clone's directory, root:reader group 0710
//	    <disk>.<format>             a disk that can be written, 0600 until libvirt hands it to QEMU
//	    base-<disk>.<format>        the pinned base of an overlay, 0440
//	    overlay.qcow2               takes the disk's writes after a clean point
//	    clean.ram                   the RAM at a clean point, written by libvirt
//	    serial.log                  the console's log
//
// A disk's format is told by its name alone: a guest can write any header into a raw disk of its own.
//
// Guarantees: what a method returned without an error is durable; what it returned with one left nothing that
// counts, and can be tried again; an image's bytes never change; no operation follows a symbolic link below the
// state directory; a program that reads an unknown image runs as nobody, without network and with limits.
//
// Images come from files ([Store.Import]), streams ([Store.ImportFrom]), uploads in pieces ([Store.BeginUpload]), URLs
// ([Store.Fetch]) and from the disks of clones ([Store.Flatten]), which can be cleaned of what must not travel without
// that anything of a guest's is mounted here. A URL is fetched from hosts that the rules name, at addresses that lead
// neither to this machine nor to its own networks.
//
// Order against crashes: bytes before the record, the record dropped before the bytes; [Store.Sweep] removes
// whatever no record names.
//
// Concurrency: all methods of a [Store] may be called at the same time. Work on one key takes turns; imports of
// the same bytes meet in one file. One process holds a store at a time.
//
// Not done here: quotas, names, owners, states, and overwriting freed blocks. The cut of less than a cluster at
// the end of a qcow2 file cannot be told from a file that QEMU wrote so; the digest can tell.
package imagestore
