// Package policy reads policy files: what the interface of a capsule may send and get. It is pure: it opens no
// socket and asks no resolver, so that a file means the same today and tomorrow.
package policy
