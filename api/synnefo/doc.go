// Package synnefo speaks the two versions of the image API that Synnefo's clients know: 1.1 under /api and 2.0 under
// /compute (images contract, sections 1 to 3, 5, 7 and 8). Each is a [dialect.Family].
//
// Both have the same calls and the same code. What differs between them is data, in the table of versions, and the
// shape of one image. Replies are JSON or XML, as the query (2.0 alone), the suffix of the path or Accept choose;
// requests are JSON. XML in a request is refused, so that nothing here ever reads XML.
//
// Paths are read as they were sent, before anything is decoded or cleaned: a key of metadata is all that follows
// meta/, slashes and dots too.
//
// The package decides nothing. It knows no limit but the ones that are the dialect's own: a value has 256 characters at
// most, and a client that asks for changes asks for those of the last hour.
package synnefo
