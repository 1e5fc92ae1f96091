package horizon

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

const (
	pageSize = 20   // API_RESULT_PAGE_SIZE: items of a page (section 6.4)
	mostSize = 1000 // API_RESULT_LIMIT: items of a list without pages
)

// listing is what a list of images is to be.
type listing struct {
	query daemon.ImageQuery
	paged bool
	keep  []func(daemon.Image) bool
}

// openPage begins a reply whose items are to be appended, as a list.
func openPage(c *call) []byte { return append(c.Buffer(), `{"items":`...) }

// page is the reply that has its items.
func page(b []byte, more, previous bool) dialect.Reply {
	b = strconv.AppendBool(append(b, `,"has_more_data":`...), more)
	b = strconv.AppendBool(append(b, `,"has_prev_data":`...), previous)
	return dialect.Reply{MediaType: mediaType, Body: append(b, '}')}
}

var sorts = map[string]daemon.ImageSort{
	"created_at": daemon.ByCreated, "updated_at": daemon.ByUpdated, "name": daemon.ByName, "id": daemon.ByID, "size": daemon.BySize,
	"status": daemon.ByState,
}

// filters are the names that are no property (section 6.4). An empty value of one is no filter, but where it is a word
// for false.
var filters = map[string]func(l *listing, value string) error{
	"name":              func(l *listing, v string) error { l.query.Name = &v; return nil },
	"owner":             func(l *listing, v string) error { l.query.Owner = v; return nil },
	"property-owner_id": func(l *listing, v string) error { l.query.Owner = v; return nil },
	"status":            (*listing).status,
	"visibility":        (*listing).visibility,
	"disk_format":       (*listing).format,
	"container_format":  func(l *listing, v string) error { l.query.Nothing = l.query.Nothing || v != "bare"; return nil },
	"tag": func(l *listing, v string) error {
		l.keep = append(l.keep, func(i daemon.Image) bool { return slices.Contains(tagsOf(i), v) })
		return nil
	},
	"description": func(l *listing, v string) error {
		l.keep = append(l.keep, func(i daemon.Image) bool { return propertiesOf(i, false)["description"] == v })
		return nil
	},
	"size_min": func(l *listing, v string) (err error) { l.query.SizeMin, err = bytes("size_min", v); return err },
	"size_max": func(l *listing, v string) (err error) { l.query.SizeMax, err = bytes("size_max", v); return err },
	"min_disk": func(l *listing, v string) (err error) { l.query.MinDiskGB, err = amount("min_disk", v); return err },
	"min_ram":  func(l *listing, v string) (err error) { l.query.MinRAMMB, err = amount("min_ram", v); return err },
}

var flags = map[string]func(l *listing, value bool){
	"paginate":  func(l *listing, v bool) { l.paged = v },
	"protected": func(l *listing, v bool) { l.query.Protected = &v },
	"is_public": func(l *listing, v bool) {
		l.query.Visibility = daemon.Private
		if v {
			l.query.Visibility = daemon.Public
		}
	},
	"os_hidden": func(l *listing, v bool) {
		l.keep[0] = func(i daemon.Image) bool { return hidden(i) == v }
	},
}

// parseListing reads the query of a list. The last of several values counts.
func parseListing(raw string) (*listing, error) {
	values, err := dialect.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	l := &listing{keep: []func(daemon.Image) bool{func(i daemon.Image) bool { return !hidden(i) }}}
	l.query.Metadata = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(values)) { // visibility counts more than is_public, whatever comes first
		value := values[name][len(values[name])-1]
		if !utf8.ValidString(name) || !utf8.ValidString(value) || strings.ContainsRune(name+value, 0) {
			return nil, dialect.Invalid("the query must be UTF-8 without NUL")
		}
		if err := l.take(name, value); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *listing) take(name, value string) error {
	switch name {
	case "resource_type":
		return nil
	case "marker":
		l.query.Marker = value
		return nil
	case "sort_key":
		sort, ok := sorts[value]
		if !ok && value != "" {
			return dialect.Invalid("sort_key is %.80q: it must be created_at, updated_at, name, id, size or status", value)
		}
		l.query.Sort = sort
		return nil
	case "sort_dir":
		if value != "asc" && value != "desc" && value != "" {
			return dialect.Invalid("sort_dir is %.80q: it must be asc or desc", value)
		}
		l.query.Ascending = value == "asc"
		return nil
	}
	if set, ok := flags[name]; ok {
		yes, err := truth(value)
		if err != nil {
			return dialect.Invalid("%s is %.80q: it must be true or false", name, value)
		}
		set(l, yes)
		return nil
	}
	if set, ok := filters[name]; ok {
		if value == "" {
			return nil
		}
		return set(l, value)
	}
	l.query.Metadata[name] = value
	return nil
}

// status finds the state that is shown as a word. Tombstones of what was deleted are in no list, and a word that stands
// for no state is of no image.
func (l *listing) status(v string) error {
	states := map[string]daemon.ImageState{"queued": daemon.ImagePending, "saving": daemon.ImagePending, "active": daemon.ImageActive,
		"pending_delete": daemon.ImageDeletePending, "killed": daemon.ImageError}
	v = strings.ToLower(v)
	state, ok := states[v]
	if !ok {
		l.query.Nothing = true
		return nil
	}
	l.query.States = []daemon.ImageState{state}
	if state == daemon.ImagePending {
		arrived := v == "saving"
		l.query.Arrived = &arrived
	}
	return nil
}

func (l *listing) visibility(v string) (err error) {
	l.query.Visibility, err = visibility(v)
	return err
}

func visibility(v string) (daemon.Visibility, error) {
	for _, known := range []daemon.Visibility{daemon.Public, daemon.Private, daemon.Shared, daemon.Community} {
		if v == string(known) {
			return known, nil
		}
	}
	return "", dialect.Invalid("invalid visibility option: %.80s", v)
}

func (l *listing) format(v string) error {
	l.query.Format, l.query.Nothing = v, l.query.Nothing || v != "raw" && v != "qcow2"
	return nil
}

func bytes(name, v string) (*int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return nil, dialect.Invalid("%s is %.80q: it must be a whole number", name, v)
	}
	return &n, nil
}

func amount(name, v string) (*int, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		return nil, dialect.Invalid("%s is %.80q: it must be a whole number", name, v)
	}
	out := int(n)
	return &out, nil
}

func (f *Family) list(c *call) (dialect.Reply, error) {
	l, err := parseListing(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	size := mostSize
	if l.paged {
		size = pageSize
	}
	images, further, err := imageservice.Gather(c.Context(), f.daemon, c.Caller, l.query, size, mostSize, l.keep)
	if err != nil {
		return dialect.Reply{}, err
	}
	return page(listed.AppendList(openPage(c), images), l.paged && further, l.paged && l.query.Marker != ""), nil
}
