// Package store keeps the records of one host in SQLite: capsules, their members, ports and addresses; images;
// users; operations; the audit trail.
//
// All access is by transaction: [DB.Update] for one writer at a time, [DB.View] for a consistent snapshot beside
// it. When Update returns nil its writes are on the disk (WAL, synchronous=FULL). Rules that must never be broken
// are rules of the schema, not of the code above it: a port or an address has one holder, a target has one open
// operation, an audit row is never changed or deleted.
//
// The package decides nothing: which state may follow which is its caller's business, who gives the states that
// a transition starts from and gets [ErrStale] when the record has moved on.
package store
