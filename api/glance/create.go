package glance

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// draft is what a body says of an image, or a patch of one attribute; nil is what is not said.
type draft struct {
	name, visibility, diskFormat, containerFormat, owner *string
	protected, hidden                                    *bool
	minDisk, minRAM                                      *int
	tags                                                 *[]string
}

// take reads one attribute. The types are those of the schema, null where it allows that.
func (d *draft) take(name string, raw json.RawMessage) error {
	var to any
	null := false
	switch name {
	case "name":
		to, null = &d.name, true
	case "disk_format":
		to, null = &d.diskFormat, true
	case "container_format":
		to, null = &d.containerFormat, true
	case "owner":
		to, null = &d.owner, true
	case "visibility":
		to = &d.visibility
	case "protected":
		to = &d.protected
	case "os_hidden":
		to = &d.hidden
	case "min_disk":
		to = &d.minDisk
	case "min_ram":
		to = &d.minRAM
	case "tags":
		return d.takeTags(raw)
	}
	if string(raw) == "null" && !null || json.Unmarshal(raw, to) != nil {
		return dialect.Invalid("%s has the wrong type", name)
	}
	return d.check()
}

func (d *draft) takeTags(raw json.RawMessage) error {
	var tags []*string
	if json.Unmarshal(raw, &tags) != nil || tags == nil {
		return dialect.Invalid("tags must be a list of strings")
	}
	out := []string{}
	for _, tag := range tags {
		if tag == nil {
			return dialect.Invalid("tags must be a list of strings")
		}
		if err := checkTag(*tag); err != nil {
			return err
		}
		out = append(out, *tag)
	}
	d.tags = &out
	return nil
}

func checkTag(tag string) error {
	if n := len([]rune(tag)); n < 1 || n > 255 {
		return dialect.Invalid("a tag must have 1 to 255 characters")
	}
	return nil
}

func (d *draft) check() error {
	if d.diskFormat != nil && *d.diskFormat != "raw" && *d.diskFormat != "qcow2" {
		return dialect.Invalid("disk_format is %.80q: it must be raw or qcow2", *d.diskFormat)
	}
	if d.containerFormat != nil && *d.containerFormat != "bare" {
		return dialect.Invalid("container_format is %.80q: it must be bare", *d.containerFormat)
	}
	for name, n := range map[string]*int{"min_disk": d.minDisk, "min_ram": d.minRAM} {
		if n != nil && *n < 0 {
			return dialect.Invalid("%s must not be negative", name)
		}
	}
	if d.visibility == nil {
		return nil
	}
	_, err := visibility(*d.visibility)
	return err
}

func visibility(v string) (daemon.Visibility, error) {
	for _, known := range []daemon.Visibility{daemon.Public, daemon.Private, daemon.Shared, daemon.Community} {
		if v == string(known) {
			return known, nil
		}
	}
	return "", dialect.Invalid("visibility is %.80q: it must be public, private, shared or community", v)
}

func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// decodeCreate reads a body. What is no attribute is a property, and a string.
func decodeCreate(o dialect.Object, caller daemon.Caller) (n daemon.NewImage, err error) {
	var d draft
	custom := dialect.Object{}
	for name, raw := range o {
		switch {
		case name == "id":
			if json.Unmarshal(raw, &n.ID) != nil || !isID(n.ID) {
				return n, dialect.Invalid("id must be a UUID in lower case")
			}
		case slices.Contains(readOnly, name):
			return n, dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "attribute %s is read-only", name)
		case slices.Contains(attributes, name):
			if err := d.take(name, raw); err != nil {
				return n, err
			}
		default:
			custom[name] = raw
		}
	}
	if n.Metadata, err = custom.Strings(); err != nil {
		return n, err
	}
	if d.owner != nil && *d.owner != caller.GUID && *d.owner != caller.Project {
		return n, dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "an image is owned by who makes it")
	}
	n.Description = n.Metadata["description"]
	delete(n.Metadata, "description")
	if d.hidden != nil {
		n.Metadata["os_hidden"] = hiddenText(*d.hidden)
	}
	if err := setTags(n.Metadata, or(d.tags)); err != nil {
		return n, err
	}
	n.Name, n.Format, n.Protected, n.MinDiskGB, n.MinRAMMB, n.Bytes = or(d.name), or(d.diskFormat), or(d.protected), or(d.minDisk), or(d.minRAM), -1
	n.Visibility = daemon.Visibility(or(d.visibility)) // "" is private, as Glance's default for callers that share nothing
	return n, nil
}

func hiddenText(hides bool) string {
	if hides {
		return "true"
	}
	return "false"
}

func isID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func (f *Family) create(c *call) (dialect.Reply, error) {
	o, err := c.object()
	if err != nil {
		return dialect.Reply{}, err
	}
	n, err := decodeCreate(o, c.Caller)
	if err != nil {
		return dialect.Reply{}, err
	}
	i, _, err := f.daemon.AddImage(c.Context(), c.Caller, n)
	if err != nil {
		return dialect.Reply{}, err
	}
	p, err := reply(http.StatusCreated, shown(i))
	p.Header = http.Header{"Location": {c.Base + prefix + "/v2/images/" + i.ID}}
	return p, err
}
