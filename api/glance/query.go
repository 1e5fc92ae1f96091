package glance

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

const (
	usualLimit = 25 // Glance's limit_param_default
	mostLimit  = 1000
)

// listing is what a list of images is to be.
type listing struct {
	query  daemon.ImageQuery
	limit  int
	hidden bool
	keep   []func(daemon.Image) bool
	values url.Values // as given, for links
}

var sorts = map[string]daemon.ImageSort{
	"created_at": daemon.ByCreated, "updated_at": daemon.ByUpdated, "name": daemon.ByName, "id": daemon.ByID, "size": daemon.BySize,
	"status": daemon.ByState,
}

// parameters are the names that are no property.
var parameters = map[string]func(l *listing, value string) error{
	"marker":           func(l *listing, v string) error { l.query.Marker = v; return nil },
	"limit":            func(l *listing, v string) (err error) { l.limit, err = limit(v); return err },
	"sort":             (*listing).sort,
	"sort_key":         func(l *listing, v string) error { return l.sort(v) },
	"sort_dir":         func(*listing, string) error { return nil }, // read with the keys
	"name":             (*listing).name,
	"id":               func(l *listing, v string) error { return l.among(v, func(i daemon.Image) string { return i.ID }) },
	"disk_format":      func(l *listing, v string) error { return l.among(v, func(i daemon.Image) string { return i.Format }) },
	"container_format": func(l *listing, v string) error { return l.among(v, func(daemon.Image) string { return "bare" }) },
	"os_hash_value": func(l *listing, v string) error {
		return l.among(v, func(i daemon.Image) string { return strings.TrimPrefix(i.Digest, "sha256:") })
	},
	"checksum":      func(l *listing, v string) error { l.query.Nothing = true; return nil }, // none has one
	"status":        (*listing).status,
	"owner":         func(l *listing, v string) error { l.query.Owner = v; return nil },
	"visibility":    (*listing).visibility,
	"member_status": func(*listing, string) error { return nil }, // there are no members
	"protected": func(l *listing, v string) error {
		yes, err := truth("protected", v)
		l.query.Protected = &yes
		return err
	},
	"os_hidden": func(l *listing, v string) (err error) { l.hidden, err = truth("os_hidden", v); return err },
	"size_min":  func(l *listing, v string) error { n, err := number("size_min", v); l.query.SizeMin = &n; return err },
	"size_max":  func(l *listing, v string) error { n, err := number("size_max", v); l.query.SizeMax = &n; return err },
	"min_disk":  func(l *listing, v string) error { n, err := small("min_disk", v); l.query.MinDiskGB = &n; return err },
	"min_ram":   func(l *listing, v string) error { n, err := small("min_ram", v); l.query.MinRAMMB = &n; return err },
	"created_at": func(l *listing, v string) error {
		return l.when(v, func(i daemon.Image) time.Time { return i.CreatedAt })
	},
	"updated_at": func(l *listing, v string) error {
		return l.when(v, func(i daemon.Image) time.Time { return i.UpdatedAt })
	},
}

// parseQuery decodes the query of a list.
func parseQuery(raw string) (url.Values, error) {
	values, err := dialect.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	for name, given := range values {
		if text := name + strings.Join(given, ""); !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return nil, dialect.Invalid("the query must be UTF-8 without NUL")
		}
	}
	return values, nil
}

// parseListing reads the query of a list of images. Of several values the last counts, but for tags, which all must be
// there.
func parseListing(raw string) (*listing, error) {
	values, err := parseQuery(raw)
	if err != nil {
		return nil, err
	}
	l := &listing{limit: usualLimit, values: values}
	l.query.Metadata = map[string]string{}
	if values.Has("sort") && (values.Has("sort_key") || values.Has("sort_dir")) {
		return nil, dialect.Invalid("sort, and sort_key with sort_dir, say the same: one of them must do")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		given := values[name]
		value := given[len(given)-1]
		if name == "sort_key" || name == "sort_dir" {
			value = given[0] // the first key counts most
		}
		if name == "tag" {
			l.keep = append(l.keep, func(i daemon.Image) bool {
				tags := tagsOf(i.Metadata)
				return !slices.ContainsFunc(given, func(tag string) bool { return !slices.Contains(tags, tag) })
			})
		} else if set, ok := parameters[name]; !ok {
			l.query.Metadata[name] = value
		} else if err := set(l, value); err != nil {
			return nil, err
		}
	}
	if direction := values.Get("sort_dir"); values.Has("sort_dir") {
		if direction != "asc" && direction != "desc" {
			return nil, dialect.Invalid("sort_dir is %.80q: it must be asc or desc", direction)
		}
		l.query.Ascending = direction == "asc"
	}
	l.keep = append(l.keep, func(i daemon.Image) bool { return hidden(i.Metadata) == l.hidden })
	return l, nil
}

func limit(v string) (int, error) {
	n, err := small("limit", v)
	return min(n, mostLimit), err
}

// sort reads "key" or "key:direction,..."; the keys after the first only part what is equal in it, and are left to the
// order that the daemon has anyway.
func (l *listing) sort(v string) error {
	for n, part := range strings.Split(v, ",") {
		key, direction, _ := strings.Cut(part, ":")
		by, ok := sorts[key]
		if !ok || direction != "" && direction != "asc" && direction != "desc" {
			return dialect.Invalid("%.80q cannot be sorted by: the keys are created_at, updated_at, name, id, size and status, each with :asc or :desc", part)
		}
		if n == 0 {
			l.query.Sort, l.query.Ascending = by, direction == "asc"
		}
	}
	return nil
}

// among compares with a value, or with those in "in:a,b".
func (l *listing) among(v string, of func(daemon.Image) string) error {
	wanted := []string{v}
	if list, ok := strings.CutPrefix(v, "in:"); ok {
		wanted = strings.Split(list, ",")
	}
	l.keep = append(l.keep, func(i daemon.Image) bool { return slices.Contains(wanted, of(i)) })
	return nil
}

func (l *listing) name(v string) error {
	if !strings.HasPrefix(v, "in:") {
		l.query.Name = &v // the records have an index of them
		return nil
	}
	return l.among(v, func(i daemon.Image) string { return i.Name })
}

// status lists the images that are shown with a word. What is deleted is in no list.
func (l *listing) status(v string) error {
	l.query.States = []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageError}
	return l.among(v, func(i daemon.Image) string { return imageservice.Word(&i) })
}

func (l *listing) visibility(v string) (err error) {
	if v != "all" {
		l.query.Visibility, err = visibility(v)
	}
	return err
}

// when compares a time, to the second: "gte:2026-01-02T03:04:05Z", or the time alone.
func (l *listing) when(v string, of func(daemon.Image) time.Time) error {
	op, text, ok := strings.Cut(v, ":")
	holds, known := map[string]func(n int) bool{
		"eq": func(n int) bool { return n == 0 }, "neq": func(n int) bool { return n != 0 }, "gt": func(n int) bool { return n > 0 },
		"gte": func(n int) bool { return n >= 0 }, "lt": func(n int) bool { return n < 0 }, "lte": func(n int) bool { return n <= 0 },
	}[op]
	if !ok || !known {
		text, holds = v, func(n int) bool { return n == 0 }
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		at, err = time.Parse("2006-01-02T15:04:05", text)
	}
	if err != nil {
		return dialect.Invalid("%.80q is no time such as gte:2026-01-02T03:04:05Z", v)
	}
	l.keep = append(l.keep, func(i daemon.Image) bool { return holds(of(i).Truncate(time.Second).Compare(at.Truncate(time.Second))) })
	return nil
}

func truth(name, v string) (bool, error) {
	switch v {
	case "True", "true", "1":
		return true, nil
	case "False", "false", "0":
		return false, nil
	}
	return false, dialect.Invalid("%s is %.80q: it must be true or false", name, v)
}

func number(name, v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, dialect.Invalid("%s is %.80q: it must be a whole number", name, v)
	}
	return n, nil
}

func small(name, v string) (int, error) {
	n, err := number(name, v)
	if err == nil && n > 1<<31-1 {
		err = dialect.Invalid("%s is %.80q: it must be a whole number", name, v)
	}
	return int(n), err
}

func (f *Family) list(c *call) (dialect.Reply, error) {
	l, err := parseListing(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	l.query.Nothing = l.query.Nothing || l.limit == 0
	found, more, err := imageservice.Gather(c.Context(), f.daemon, c.Caller, l.query, l.limit, mostLimit, l.keep)
	if err != nil {
		return dialect.Reply{}, err
	}
	b := listed.AppendList(append(c.Buffer(), `{"images":`...), found)
	out := map[string]any{"schema": "/v2/schemas/images"}
	last := ""
	if more && len(found) > 0 {
		last = found[len(found)-1].ID
	}
	links(out, "/v2/images", l.values, last)
	p, err := reply(http.StatusOK, out)
	if err == nil {
		p.Body = append(append(b, ','), p.Body[1:]...) // without its brace
	}
	return p, err
}

// links say where the list begins and, unless last is "", goes on. They are paths: clients know the host by its own name.
func links(out map[string]any, path string, values url.Values, last string) {
	at := func(marker string) string {
		q := maps.Clone(values)
		q.Del("marker")
		if marker != "" {
			q.Set("marker", marker)
		}
		if len(q) == 0 {
			return path
		}
		return path + "?" + q.Encode()
	}
	out["first"] = at("")
	if last != "" {
		out["next"] = at(last)
	}
}
