// Package client speaks to capsuled over HTTP: the capsule API (form-encoded calls) and the native API (/v1).
//
// It decides nothing. It adds identity, deadlines and limits to each call, and turns every refusal, in either dialect,
// into one *Error with the code of the daemon's error table, and every failure to get an answer into one *Unreachable.
//
// Guarantees: a token goes only to the host that was named, never along a redirect or through a proxy, and never in
// clear over a network; replies are read up to a limit; a call that may have taken effect is never repeated.
// Text from the daemon (names, causes, messages) is passed on as it came: escape it before it meets a terminal.
//
// A Client may be used by several goroutines at once.
//
// It does not: cache, log, write files, or know which calls a state permits.
package client
