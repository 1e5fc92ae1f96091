// Package horizon speaks the REST dialect of Horizon's dashboard for images, below /api/glance (images contract,
// section 6): what the dashboard's Angular client asks for, and what it makes of the answers.
//
// Errors are bare JSON strings. Every call but POST of an image must say X-Requested-With: XMLHttpRequest. There are no
// sessions and no cookies here, so that nothing can be forged across sites, and no CSRF token is asked for.
//
// Where the dialect leaves a choice: a format is a claim that inspection must bear out, so that disk_format may be raw or
// qcow2 or unsaid, and container_format is bare; what is fetched from an image_url is always copied; the property
// "description" is the image's description; images with os_hidden are in no list that does not ask for them; what is on
// its way out is 404 to whoever would change it. deactivate and reactivate, which are optional, are not offered (404).
//
// A form's fields come before its file, which is never held in memory: it streams into the store. What comes after the
// file is refused, and nothing is left of the image then.
package horizon
