// Package daemon owns the capsules of one host: it is the only room that decides.
//
// A verb ([Daemon.LaunchCapsule] and its like) checks who asks, the state and the quota, and writes the intent (the
// state *_PENDING, an operation and an audit row) in one transaction; when it returns nil the intent is on disk. The
// operation then runs the named, idempotent steps of its procedure through the leaves (libvirt, the firewall, the image
// store) and one transaction writes what came of it. A restart runs the steps of every open operation again; a
// libvirt event or the timer only names a capsule to look at, and the reconciler compares its record with what
// libvirt has.
//
// Records say what is wanted; libvirt and the kernel say what is. Nothing here caches what is. Each capsule has one
// operation at a time, which the record store enforces. All methods are safe for concurrent use.
package daemon
