// Package nova speaks the image calls of OpenStack's compute API: version 2.1 with its microversions, and the legacy
// version 2, which is Rackspace's Cloud Servers as well (images contract, sections 1 to 4, 7, 8, 11).
//
// The paths are "/", "/v2.1", "/v2" and everything below those two, and "/compute/v2.1" as devstack has it. What differs
// between the versions is data: a [variant]. "/v1.1" stays nobody's: Nova and Synnefo would answer there differently.
//
// Names: an item is one pair of an image's metadata; a mount is a prefix of paths and the variant that speaks below it.
//
// A Family has no state but its verbs, so that its methods may be called at the same time.
package nova
