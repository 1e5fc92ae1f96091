package glance

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

const (
	patchMedia = "application/openstack-images-v2.1-json-patch"
	// maxChanges is how many operations a patch may have: each item and each tag that an image can have is changed twice in so
	// many. Others wait while they are done, and one that changes a tag reads and writes all of them.
	maxChanges = 4 * daemon.MaxMetadataItems
)

// change is one operation of a patch.
type change struct {
	op    string          // add, replace or remove
	name  string          // of an attribute or a property
	index string          // of a tag, "-" for the end; "" for all of it
	value json.RawMessage // nil of remove
}

// decodePatch reads a json-patch, of Glance's version 2.1: a list of operations, one level deep but for tags.
func decodePatch(body []byte) ([]change, error) {
	// ParseObject looks at objects alone: it sees this list inside one. A body cannot break out of it, since it would then
	// be no JSON, or have another name beside it.
	o, err := dialect.ParseObject([]byte(`{"patch":` + string(body) + `}`))
	var list []dialect.Object
	if err == nil && (len(o) != 1 || json.Unmarshal(o["patch"], &list) != nil || list == nil) {
		err = dialect.Invalid("the body must be a list of operations")
	}
	if err != nil {
		return nil, err
	}
	if n := len(list); n > maxChanges {
		return nil, dialect.Invalid("the body has %d operations: %d are allowed", n, maxChanges)
	}
	out := make([]change, 0, len(list))
	for _, o := range list {
		c, err := decodeChange(o)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func decodeChange(o dialect.Object) (c change, err error) {
	var op, path *string
	if json.Unmarshal(o["op"], &op) != nil || op == nil || json.Unmarshal(o["path"], &path) != nil || path == nil {
		return c, dialect.Invalid("an operation must have an op and a path, which are strings")
	}
	if !slices.Contains([]string{"add", "replace", "remove"}, *op) {
		return c, dialect.Invalid("the op is %.80q: it must be add, replace or remove", *op)
	}
	c.op, c.value = *op, o["value"]
	if (c.value == nil) != (c.op == "remove") {
		return c, dialect.Invalid("add and replace must have a value, and remove none")
	}
	rest, ok := strings.CutPrefix(*path, "/")
	parts := strings.Split(rest, "/")
	for n, part := range parts {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(part), "~") {
			ok = false // RFC 6901, section 3
		}
		parts[n] = strings.NewReplacer("~0", "~", "~1", "/").Replace(part)
	}
	if !ok || parts[0] == "" || len(parts) > 2 || len(parts) == 2 && (parts[0] != "tags" || parts[1] == "") {
		return c, dialect.Invalid("the path %.80q is none of an image", *path)
	}
	if c.name = parts[0]; len(parts) == 2 {
		c.index = parts[1]
	}
	return c, nil
}

// apply makes one change of an image out of a patch; each operation sees what those before it did.
func apply(i daemon.Image, patch []change) (daemon.ImageChange, error) {
	var d draft
	var description *string
	metadata := maps.Clone(i.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	if i.Description != "" {
		metadata["description"] = i.Description
	}
	for _, c := range patch {
		if err := c.apply(i, &d, metadata); err != nil {
			return daemon.ImageChange{}, err
		}
	}
	if text := metadata["description"]; text != i.Description {
		description = &text
	}
	delete(metadata, "description") // of what is kept, the description is no item
	ch := daemon.ImageChange{Description: description, Protected: d.protected, MinDiskGB: d.minDisk, MinRAMMB: d.minRAM, SetMetadata: map[string]string{}}
	if slices.ContainsFunc(patch, func(c change) bool { return c.name == "name" }) {
		name := or(d.name) // null is no name
		ch.Name = &name
	}
	if d.visibility != nil {
		v := daemon.Visibility(*d.visibility)
		ch.Visibility = &v
	}
	for name, value := range metadata {
		if was, ok := i.Metadata[name]; !ok || was != value {
			ch.SetMetadata[name] = value
		}
	}
	for name := range i.Metadata {
		if _, ok := metadata[name]; !ok && (name != "description" || description != nil) {
			ch.RemoveMetadata = append(ch.RemoveMetadata, name)
		}
	}
	return ch, nil
}

func (c change) apply(i daemon.Image, d *draft, metadata map[string]string) error {
	switch {
	case slices.Contains(readOnly, c.name):
		return dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "attribute %s is read-only", c.name)
	case c.index != "":
		return c.applyTag(metadata)
	case slices.Contains(attributes, c.name):
		if c.op == "remove" {
			return dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "attribute %s cannot be removed", c.name)
		}
		if err := d.take(c.name, c.value); err != nil {
			return err
		}
		return c.settled(i, d, metadata)
	}
	if _, there := metadata[c.name]; !there && c.op != "add" {
		return dialect.Refuse(http.StatusConflict, daemon.Conflict, "property %.80q does not exist", c.name)
	}
	if c.op == "remove" {
		delete(metadata, c.name)
		return nil
	}
	values, err := dialect.Object{c.name: c.value}.Strings()
	if err == nil {
		metadata[c.name] = values[c.name]
	}
	return err
}

// settled refuses what cannot change, unless it stays, and keeps what is an item of the metadata.
func (c change) settled(i daemon.Image, d *draft, metadata map[string]string) error {
	switch c.name {
	case "tags":
		return setTags(metadata, *d.tags)
	case "os_hidden":
		metadata["os_hidden"] = hiddenText(*d.hidden)
	case "owner":
		if or(d.owner) != i.Owner {
			return dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "an image's owner does not change")
		}
	case "disk_format":
		if or(d.diskFormat) != i.Format {
			return dialect.Refuse(http.StatusForbidden, daemon.Forbidden, "an image's format does not change")
		}
	}
	return nil
}

// applyTag changes one tag: clients that compare lists send such operations.
func (c change) applyTag(metadata map[string]string) error {
	tags := tagsOf(metadata)
	if n := len(tags); n > maxTags { // a patch of hundreds of such operations would read and write them all each time
		return dialect.Refuse(http.StatusConflict, daemon.Conflict, "the image has %d tags, from another dialect: more than %d are changed all together, or by their names", n, maxTags)
	}
	at, err := strconv.ParseUint(c.index, 10, 31)
	if c.index == "-" && c.op == "add" {
		at, err = uint64(len(tags)), nil
	}
	if err != nil || int(at) > len(tags) || c.op != "add" && int(at) == len(tags) {
		return dialect.Refuse(http.StatusConflict, daemon.Conflict, "there is no tag %.80q", c.index)
	}
	if c.op != "add" {
		tags = slices.Delete(slices.Clone(tags), int(at), int(at)+1)
	}
	if c.op != "remove" {
		var tag *string
		if json.Unmarshal(c.value, &tag) != nil || tag == nil {
			return dialect.Invalid("a tag must be a string")
		}
		if err := checkTag(*tag); err != nil {
			return err
		}
		tags = slices.Insert(slices.Clone(tags), int(at), *tag)
	}
	return setTags(metadata, tags)
}

func (f *Family) patch(c *call) (dialect.Reply, error) {
	if err := c.media(patchMedia); err != nil {
		if no, ok := errors.AsType[*dialect.Refusal](err); ok {
			no.Header = http.Header{"Accept-Patch": {patchMedia}}
		}
		return dialect.Reply{}, err
	}
	body, err := c.ReadBody()
	if err != nil {
		return dialect.Reply{}, err
	}
	patch, err := decodePatch(body)
	if err != nil {
		return dialect.Reply{}, err
	}
	i, err := f.change(c, func(i daemon.Image) (daemon.ImageChange, error) { return apply(i, patch) })
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(http.StatusOK, shown(i))
}

// change reads an image, and changes it before anybody else here can.
func (f *Family) change(c *call, what func(daemon.Image) (daemon.ImageChange, error)) (daemon.Image, error) {
	f.changing.Lock()
	defer f.changing.Unlock()
	i, err := f.image(c)
	if err != nil {
		return i, err
	}
	ch, err := what(i)
	if err != nil {
		return i, err
	}
	return f.daemon.SetImage(c.Context(), c.Caller, c.id(), ch)
}

// retag puts a tag on, or takes it off.
func (f *Family) retag(c *call, op func(tags []string) ([]string, error)) (dialect.Reply, error) {
	_, err := f.change(c, func(i daemon.Image) (daemon.ImageChange, error) {
		tags, err := op(slices.Clone(tagsOf(i.Metadata)))
		if err != nil {
			return daemon.ImageChange{}, err
		}
		metadata := map[string]string{"tags": i.Metadata["tags"]}
		err = setTags(metadata, tags)
		ch := daemon.ImageChange{SetMetadata: metadata}
		if len(metadata) == 0 {
			ch.RemoveMetadata = []string{"tags"}
		}
		return ch, err
	})
	return noContent(err)
}

func (f *Family) tag(c *call) (dialect.Reply, error) {
	return f.retag(c, func(tags []string) ([]string, error) { return append(tags, c.args[1]), checkTag(c.args[1]) })
}

func (f *Family) untag(c *call) (dialect.Reply, error) {
	return f.retag(c, func(tags []string) ([]string, error) {
		at := slices.Index(tags, c.args[1])
		if at < 0 {
			return nil, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no tag %.80q", c.args[1])
		}
		return slices.Delete(tags, at, at+1), nil
	})
}
