// Package glance speaks the part of Glance's API, version 2, that unmodified clients use beside Nova's: below /image
// (images contract, section 10). openstacksdk, openstackclient, glanceclient, tempest and the dashboard's direct upload
// find versions, schemas, images with their bytes, tags and json-patch, and the namespaces of metadata definitions.
//
// Where this service is not Glance: the bytes must be raw or qcow2, so that disk_format is one of these or unsaid, and a
// claim that they must bear out; container_format is bare; the names of images differ; checksum, which is an MD5, is null,
// and os_hash_value has the SHA-256. The property "description" is the image's description. Tags are kept as one item of
// the metadata, "tags", a JSON array; os_hidden as the item of that name. An image on its way out is 404, as one whose
// deletion Glance delays. A PUT of bytes replies when they were inspected, or after 20 seconds, while it is still saving.
// Images are changed once they are active; before that, 409. There is no sharing with members, no import by tasks, no
// deactivation, and no ETag; a Range of the bytes is served.
package glance
