// Package dialect is what the codecs of the image APIs have in common: one request, one reply, one kind of refusal, and
// the strict reading of JSON bodies.
//
// A [Family] speaks for all paths below a prefix. Package api chooses it by the path alone, gives the request its id,
// verifies who asks unless the family says that a path is open to everybody, logs, counts, and sends what comes back.
// So a family decodes, calls one verb of package daemon, and encodes; it decides nothing, and never sees a connection.
//
// The order of what a caller can observe is the same in all of them: identity, route, media type, body, and then what
// the daemon says.
package dialect
