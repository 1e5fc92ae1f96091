// Package e2e holds the end-to-end tests: the built programs, real libvirt, real guests and real packets on a hermetic
// host. It has no code of its own beside them.
package e2e
