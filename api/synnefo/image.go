package synnefo

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

// shown is how a state is told: its word and its progress (images contract, section 3).
type shown struct {
	status   string
	progress int
}

var states = map[daemon.ImageState]shown{
	daemon.ImagePending:       {"SAVING", 0},
	daemon.ImageActive:        {"ACTIVE", 100},
	daemon.ImageDeletePending: {"DELETED", 0},
	daemon.ImageDeleted:       {"DELETED", 0},
	daemon.ImageError:         {"ERROR", 0},
}

func shownState(s daemon.ImageState) shown {
	if is, ok := states[s]; ok {
		return is
	}
	return shown{"UNKNOWN", 0}
}

// stamp writes a time with +00:00 where others write Z.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05") + "+00:00" }

// valuesJSON is what version 1.1 puts around every collection that is read.
type valuesJSON struct {
	Values any `json:"values"`
}

type briefJSON struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type commonJSON struct {
	briefJSON
	Updated  string `json:"updated"`
	Created  string `json:"created"`
	Status   string `json:"status"`
	Progress int    `json:"progress"`
}

func common(m *daemon.Image) commonJSON {
	is := shownState(m.State)
	return commonJSON{briefJSON{m.ID, m.Name}, stamp(m.UpdatedAt), stamp(m.CreatedAt), is.status, is.progress}
}

// image11 is an image as version 1.1 has it: without metadata, no word of metadata.
func image11(m *daemon.Image, _ string) any {
	out := struct {
		commonJSON
		Metadata *valuesJSON `json:"metadata,omitempty"`
	}{commonJSON: common(m)}
	if len(m.Metadata) > 0 {
		out.Metadata = &valuesJSON{m.Metadata}
	}
	return out
}

type linkJSON struct {
	Rel  string `json:"rel"`
	Type string `json:"type,omitempty"`
	Href string `json:"href"`
}

// image20 is an image as version 2.0 has it. A snapshot is what was shared from a capsule, whatever its metadata say.
func image20(m *daemon.Image, base string) any {
	self := base + "/compute/v2.0/images/" + m.ID
	return struct {
		commonJSON
		UserID     string            `json:"user_id"`
		TenantID   string            `json:"tenant_id"`
		Public     bool              `json:"public"`
		Links      [3]linkJSON       `json:"links"`
		Metadata   map[string]string `json:"metadata"`
		IsSnapshot bool              `json:"is_snapshot"`
	}{common(m), m.Owner, m.Owner, m.Visibility == daemon.Public,
		[3]linkJSON{{Rel: "self", Href: self}, {Rel: "bookmark", Href: self}, {Rel: "alternate", Href: base + "/image/v1.0/images/" + m.ID}},
		present(m.Metadata), m.SourceCapsule != ""}
}

// present makes an empty object of no map, where JSON would have null.
func present(items map[string]string) map[string]string {
	if items == nil {
		return map[string]string{}
	}
	return items
}

// brief is a list of ids and names.
type brief struct{ images []*daemon.Image }

func (d brief) json(v *version) any {
	list := make([]briefJSON, len(d.images))
	for i := range d.images {
		list[i] = briefJSON{d.images[i].ID, d.images[i].Name}
	}
	return imagesJSON{v.wrap(list)}
}

type imagesJSON struct {
	Images any `json:"images"`
}

func (d brief) xml(m *markup) {
	m.open("images", "xmlns", computeNS, "xmlns:atom", atomNS)
	for i := range d.images {
		m.open("image", "id", d.images[i].ID, "name", d.images[i].Name)
		m.close("image")
	}
	m.close("images")
}

// detailed is a list of images in full.
type detailed struct {
	images []*daemon.Image
	base   string
}

func (d detailed) json(v *version) any {
	list := make([]any, len(d.images))
	for i := range d.images {
		list[i] = v.image(d.images[i], d.base)
	}
	return imagesJSON{v.wrap(list)}
}

// xml has no progress: the contract's lists have none.
func (d detailed) xml(m *markup) {
	m.open("images", "xmlns", computeNS, "xmlns:atom", atomNS)
	for i := range d.images {
		image := d.images[i]
		m.open("image", "id", image.ID, "name", image.Name, "updated", stamp(image.UpdatedAt),
			"created", stamp(image.CreatedAt), "status", shownState(image.State).status)
		m.metadata(image.Metadata)
		m.close("image")
	}
	m.close("images")
}

// single is one image in full.
type single struct {
	image *daemon.Image
	base  string
}

func (d single) json(v *version) any {
	return struct {
		Image any `json:"image"`
	}{v.image(d.image, d.base)}
}

func (d single) xml(m *markup) {
	is := shownState(d.image.State)
	m.open("image", "xmlns", computeNS, "xmlns:atom", atomNS, "id", d.image.ID, "name", d.image.Name,
		"serverRef", d.image.SourceCapsule, "updated", stamp(d.image.UpdatedAt), "created", stamp(d.image.CreatedAt),
		"status", is.status, "progress", strconv.Itoa(is.progress))
	m.metadata(d.image.Metadata)
	m.close("image")
}

// metadata are all items of an image. What a merge answers has no values around it, in no version.
type metadata struct {
	items map[string]string
	read  bool
}

func (d metadata) json(v *version) any {
	var items any = present(d.items)
	if d.read {
		items = v.wrap(items)
	}
	return struct {
		Metadata any `json:"metadata"`
	}{items}
}

func (d metadata) xml(m *markup) {
	m.open("metadata", "xmlns", computeNS)
	m.items(d.items)
	m.close("metadata")
}

// metadata writes an element for items, and none for no items.
func (m *markup) metadata(items map[string]string) {
	if len(items) == 0 {
		return
	}
	m.open("metadata")
	m.items(items)
	m.close("metadata")
}

// items writes them sorted by key, so that the same image is always the same text.
func (m *markup) items(items map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(items)) {
		m.element("meta", items[key], "key", key)
	}
}

// item is one item of metadata.
type item struct{ key, value string }

func (d item) json(*version) any {
	return struct {
		Meta map[string]string `json:"meta"`
	}{map[string]string{d.key: d.value}}
}

func (d item) xml(m *markup) { m.element("meta", d.value, "xmlns", computeNS, "key", d.key) }
