// Package wire holds the request and reply structs of the HTTP API, field for field as they travel. It imports
// nothing of ours and decides nothing.
package wire
