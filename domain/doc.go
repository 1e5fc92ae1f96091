// Package domain drives libvirt: one connection, the domains and the one network of a host.
//
// A [Host] keeps a single connection with keepalive and a close callback, reconnects with back-off, and
// registers its event callbacks anew after each reconnect. Its callers describe a domain with a [Spec] and
// learn what libvirt has with [Host.Observe]; no libvirt type leaves the package, and every libvirt handle it
// receives it frees.
//
// The package knows nothing of what a domain is for: an owner marks its domains with a record id and a hash
// of the spec in the domain's metadata, and finds them again by it. It writes no firewall rule, touches no
// disk content, and stores nothing: what is wanted lives with the owner, what is lives in libvirt.
//
// All methods are safe for concurrent use. Calls into libvirt are cgo calls that cannot be interrupted: a
// method whose context ends returns at once with the context's error while the call itself may still finish.
package domain
