// Package keystone speaks as much of OpenStack's identity API as its clients need to get a token and to find the other
// services: version 3, and version 2.0 with Rackspace's key of the API (images contract, section 9).
//
// A token is the one that every other door takes. It is given out for the password of a user of the users' file, and
// given back for itself. Nothing is kept: there are no sessions, and no token is revoked. DELETE answers as if it were,
// for clients that insist, and the token lives until it expires.
//
// Guessing is slow: every attempt is charged to the name and to the address that it comes from before any work is done,
// few passwords are worked on at once, and a name that does not exist costs the work of one that does. See [Family].
// Passwords and tokens are in no message of this package's errors.
//
// Tokens are never read from a path, though version 2.0 has such calls: paths are logged.
package keystone
