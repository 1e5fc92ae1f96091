// Package api is the daemon's HTTP face: routes, one codec per dialect, identity, error envelopes, OpenAPI.
//
// The dialect is chosen by the path alone. Two are spoken here: the capsule dialect (form in, JSON out, errors as
// statusCode and description) is what a request router speaks; the native one (JSON in, JSON out, under /v1) is what the
// operator's tools speak. The image APIs of the OpenStack family are spoken by packages of their own, a
// [dialect.Family] each. All call the same verbs of package daemon, which decides everything: here nothing is decided
// but who asks (Caller) and whether a request is well formed.
//
// Guarantees: no verb is called without a verified identity; a request is refused whole, with every fault named, before
// a verb sees any of it; the text of an internal error is logged under the request's id and never sent; tokens, bodies
// and query strings are never logged; every reply that began an operation says where to watch it.
//
// Concurrency: a Server serves any number of requests on any number of listeners. Its state is fixed by New, but for
// the token secret, which is read again when its file changes.
//
// It does not rate-limit (but for guesses at passwords: package keystone), terminate TLS for others, or trust any header
// that names a user.
package api
