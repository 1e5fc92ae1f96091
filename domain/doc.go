// Package domain drives libvirt: the domains and the one network of a host.
//
// A [Host] keeps a connection with keepalive, a close callback and the event callbacks; when it is lost, it is
// made again with back-off, and everything is announced as possibly changed. Its callers describe a domain with
// a [Spec] and learn what libvirt has with [Host.Observe]; no libvirt type leaves the package, and every libvirt
// handle it receives it frees.
//
// The package knows nothing of what a domain is for: an owner marks its domains with a record id and a hash
// of the spec in the domain's metadata, and finds them again by it. A domain without that mark is a stranger's:
// it is neither reported nor touched. The package writes no firewall rule, touches no disk content but libvirt's log of a domain
// (log.go), and stores nothing: what is wanted lives with the owner, what is lives in libvirt.
//
// A domain can be taken back to a clean point: [Host.Checkpoint] saves its RAM and freezes its first disk at one
// instant, [Host.Restore] starts it from there, on the devices of its spec and no others. [Host.Inspect] names
// everything that a domain has, known or not. What is asked of a guest through its agent is a short list of commands
// (agent.go); what it answers is its own word.
//
// All methods are safe for concurrent use; the owner sees to it that one domain has one operation at a time.
// Calls into libvirt are cgo calls that cannot be interrupted: a method whose context ends returns at once with
// ErrUnavailable and the context's error, while the call itself may still finish. Each call has a connection of
// its own while it runs, from a small pool, and waits for a turn in its lane: looks, changes, requests to guests
// and changes to the network do not hold each other up. Statistics are collected in the background.
package domain
