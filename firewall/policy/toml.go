package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// ParseTOML reads a policy in the operator's format (docs/policies.md). source is the name of the file: for messages,
// and its base without the extension is the policy's name. The error is of type [Faults].
func ParseTOML(source string, text []byte) (Policy, error) {
	p := blank(source, text)
	if len(text) > maxFileBytes {
		return Policy{}, Faults{{source, 0, fmt.Sprintf("the file has %d bytes: want at most %d", len(text), maxFileBytes)}}
	}
	at, deep := scanLines(string(text))
	if deep > 0 {
		return Policy{}, Faults{{source, deep, fmt.Sprintf("more than %d brackets are open, or as many parts are in one key: want each closed", deepest)}}
	}
	var top map[string]any
	if _, err := toml.Decode(string(text), &top); err != nil {
		f := Fault{Source: source, Text: "not TOML: " + printable(err.Error())}
		if at, ok := errors.AsType[toml.ParseError](err); ok {
			f.Line, f.Text = at.Position.Line, "not TOML: "+printable(at.Message)
		}
		return Policy{}, Faults{f}
	}
	r := reader{Policy: p, at: at, bad: map[string]bool{}}
	r.top(top)
	r.faults = append(r.faults, r.check(places{line: r.lineOf, broken: r.broken})...)
	if err := r.faults.err(); err != nil {
		return Policy{}, err
	}
	return r.Policy, nil
}

// blank is what is known of a policy before its file is read.
func blank(source string, text []byte) Policy {
	sum := sha256.Sum256(text)
	base := filepath.Base(source)
	return Policy{Name: strings.TrimSuffix(base, filepath.Ext(base)), Source: source, Digest: hex.EncodeToString(sum[:])}
}

// printable is text of others in a form that is safe to print, without quotes around it.
func printable(s string) string {
	q := quote(s)
	return strings.ReplaceAll(strings.Trim(q, `"`), `\"`, `"`)
}

// reader turns a decoded document into a policy.
type reader struct {
	Policy
	at     lines
	origin []int           // of each of Policy.Rules: the number of its table
	bad    map[string]bool // paths of keys that could not be read
	faults Faults
}

// faultf notes what is wrong with the key at a path, or with the nearest table around it that has a line.
func (r *reader) faultf(at, format string, args ...any) {
	r.bad[at] = true
	r.faults = append(r.faults, Fault{r.Source, r.near(at), fmt.Sprintf(format, args...)})
}

func (r *reader) near(at string) int {
	for {
		if line := r.at[at]; line > 0 {
			return line
		}
		i := strings.LastIndexByte(at, 0)
		if i < 0 {
			return 0
		}
		at = at[:i]
	}
}

// where is the path of a key that a check names.
func (r *reader) where(rule int, key string) string {
	if name, ok := strings.CutPrefix(key, "hosts."); ok {
		return path("hosts", name)
	}
	if rule >= 0 {
		return path("rule", strconv.Itoa(r.origin[rule]), key)
	}
	return key
}

func (r *reader) lineOf(rule int, key string) int { return r.near(r.where(rule, key)) }

func (r *reader) broken(rule int, key string) bool { return r.bad[r.where(rule, key)] }

// topKeys and ruleKeys are all keys there are.
var (
	topKeys  = []string{"comment", "secure", "dhcp", "dns", "ssh", "hosts", "rule"}
	ruleKeys = []string{"action", "direction", "protocol", "peers", "ports", "comment"}
)

func (r *reader) top(table map[string]any) {
	r.unknown("", table, topKeys)
	r.Comment = r.text("", table, "comment")
	r.Secure = r.boolean(table, "secure")
	r.DHCP = r.boolean(table, "dhcp")
	r.SSH = r.boolean(table, "ssh")
	r.DNS = DNS(r.choice("", table, "dns", dnsWords, int(NoDNS)))
	if v, ok := table["hosts"]; ok {
		r.hosts(v)
	}
	v, ok := table["rule"]
	if !ok {
		return
	}
	tables, ok := v.([]map[string]any)
	if !ok || r.at[path("rule", strconv.Itoa(len(tables)-1))] == 0 {
		r.faultf("rule", "rule is %s: want a line [[rule]] before each rule", kind(v))
		return
	}
	for i, t := range tables {
		r.rule(i, t)
	}
}

func (r *reader) unknown(at string, table map[string]any, known []string) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(known, key) {
			r.faultf(below(at, key), "unknown key %s: want one of %s", quote(key), strings.Join(known, ", "))
		}
	}
}

func below(at, key string) string {
	if at == "" {
		return key
	}
	return path(at, key)
}

func (r *reader) text(at string, table map[string]any, key string) string {
	v, ok := table[key]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		r.faultf(below(at, key), "%s is %s: want text in quotes", key, kind(v))
	}
	return s
}

func (r *reader) boolean(table map[string]any, key string) bool {
	v, ok := table[key]
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		r.faultf(key, "%s is %s: want true or false", key, kind(v))
	}
	return b
}

// choice reads one of several words.
func (r *reader) choice(at string, table map[string]any, key string, words []string, none int) int {
	v, ok := table[key]
	if !ok {
		return none
	}
	s, _ := v.(string)
	i := slices.Index(words, s)
	if i < 0 {
		r.faultf(below(at, key), "%s is %s: want %s", key, kind(v), oneOf(words))
		return none
	}
	return i
}

func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// kind is a value in words.
func kind(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case bool, int64, float64:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any, []map[string]any:
		return "a table"
	}
	return "a date" // the one other kind of TOML
}

// list reads a list of texts. each gets an item and the path for its faults.
func (r *reader) list(at, what string, v any, each func(at, text string)) {
	items, ok := v.([]any)
	if !ok {
		r.faultf(at, "%s is %s: want a list of texts in quotes, such as %s", what, kind(v), listForms[what])
		return
	}
	if len(items) == 0 {
		r.faultf(at, "%s is an empty list: want such as %s", what, listForms[what])
	}
	for i, item := range items {
		place := path(at, strconv.Itoa(i))
		if s, ok := item.(string); ok {
			each(place, s)
		} else {
			r.faultf(place, "%s has %s: want text in quotes, such as %s", what, kind(item), listForms[what])
			r.bad[at] = true
		}
	}
}

var listForms = map[string]string{
	"peers":          `["data.example.org", "198.51.100.0/24"]`,
	"ports":          `["443", "8000-8010"]; without the key all ports are meant`,
	"a name's value": `["192.0.2.10"]`,
}

// hosts reads the table of names.
func (r *reader) hosts(v any) {
	table, ok := v.(map[string]any)
	if !ok {
		r.faultf("hosts", "hosts is %s: want a line [hosts], and names with their addresses below it", kind(v))
		return
	}
	r.Hosts = map[string][]netip.Addr{}
	for _, spelled := range slices.Sorted(maps.Keys(table)) {
		name := strings.ToLower(spelled)
		at := path("hosts", spelled)
		r.at[path("hosts", name)] = r.near(at)
		if _, again := r.Hosts[name]; again {
			r.faultf(at, "name %s is there twice, since upper and lower case are one: leave one out", quote(name))
			continue
		}
		r.Hosts[name] = nil
		if _, table := table[spelled].(map[string]any); table {
			r.faultf(at, "name %s is a table: want the whole name in quotes, such as \"data.example.org\" = [\"192.0.2.10\"]", quote(spelled))
			continue
		}
		r.list(at, "a name's value", table[spelled], func(item, text string) {
			a, err := netip.ParseAddr(text)
			if err != nil || !a.Is4() {
				r.bad[at] = true
				why := "is no IPv4 address: want one such as \"192.0.2.10\""
				if err == nil {
					why = "is IPv6, which is always closed: want IPv4 addresses"
				}
				r.faultf(item, "%s %s", quote(text), why)
				return
			}
			r.Hosts[name] = append(r.Hosts[name], a)
		})
		if r.bad[at] {
			r.bad[path("hosts", name)] = true
		}
	}
}
