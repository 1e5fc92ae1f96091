package horizon

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// fields are what the bodies of creating and of changing an image have in common (section 6.5). What is not said has the
// dialect's default, not what the image has.
type fields struct {
	name        string
	description *string // nil when it is not said: then it stays
	visibility  daemon.Visibility
	protected   bool
	minDiskGB   int
	minRAMMB    int
	format      string // "" when none is claimed
	metadata    map[string]string
}

// known are the names that are no property of the caller's (section 6.5), and those that this package reads.
var known = []string{"visibility", "protected", "disk_format", "container_format", "min_disk", "min_ram", "name", "properties", "kernel", "ramdisk",
	"tags", "import_data", "source", "image_id", "image_url", "source_type", "data", "public", "checksum", "created_at", "deleted",
	"is_copying", "deleted_at", "is_public", "virtual_size", "status", "size", "owner", "id", "updated_at", "kernel_id", "ramdisk_id",
	"image_file", "description", "architecture"}

// computed are names that are shown of an image and that nobody writes.
var computed = []string{"file", "locations", "schema", "self", "stores", "direct_url", "os_hash_algo", "os_hash_value"}

func decodeFields(o dialect.Object) (f fields, err error) {
	if f.name, _, err = text(o, "name"); err != nil {
		return f, err
	}
	description, said, err := text(o, "description")
	if err != nil {
		return f, err
	}
	if said {
		f.description = &description
	}
	shows, said, err := text(o, "visibility")
	if err != nil {
		return f, err
	}
	f.visibility = daemon.Private
	if said && shows != "" {
		if f.visibility, err = visibility(shows); err != nil {
			return f, err
		}
	}
	if f.protected, err = flag(o, "protected"); err != nil {
		return f, err
	}
	if f.minDiskGB, err = whole(o, "min_disk"); err != nil {
		return f, err
	}
	if f.minRAMMB, err = whole(o, "min_ram"); err != nil {
		return f, err
	}
	if f.format, err = claimed(o); err != nil {
		return f, err
	}
	f.metadata, err = properties(o)
	return f, err
}

// claimed is the format that the bytes are said to have. The dashboard's default is raw, whatever the file is: what
// nobody said is no claim.
func claimed(o dialect.Object) (string, error) {
	container, _, err := text(o, "container_format")
	if err != nil {
		return "", err
	}
	if container != "" && container != "bare" {
		return "", dialect.Invalid("container_format is %.80q: it must be bare", container)
	}
	format, _, err := text(o, "disk_format")
	if err == nil && format != "" && format != "raw" && format != "qcow2" {
		return "", dialect.Invalid("disk_format is %.80q: it must be raw or qcow2", format)
	}
	return format, err
}

// properties reads every name that is not known, and those known ones that are kept as properties.
func properties(o dialect.Object) (map[string]string, error) {
	out := map[string]string{}
	for field, name := range map[string]string{"kernel": "kernel_id", "ramdisk": "ramdisk_id", "architecture": "architecture"} {
		value, _, err := text(o, field)
		if err != nil {
			return nil, err
		}
		if value != "" {
			out[name] = value
		}
	}
	custom := dialect.Object{}
	for name, value := range o {
		if slices.Contains(computed, name) {
			return nil, dialect.Invalid("%s is not for callers to set", name)
		}
		if !slices.Contains(known, name) {
			custom[name] = value
		}
	}
	if err := hiddenAsText(custom); err != nil {
		return nil, err
	}
	values, err := custom.Strings()
	if err != nil {
		return nil, err
	}
	for name, value := range values {
		out[name] = value
	}
	return out, nil
}

// hiddenAsText makes the one property that is true or false one of the strings that are kept.
func hiddenAsText(o dialect.Object) error {
	if _, ok := o["os_hidden"]; !ok {
		return nil
	}
	hides, err := flag(o, "os_hidden")
	if err != nil {
		return err
	}
	o["os_hidden"] = json.RawMessage(strconv.Quote(strconv.FormatBool(hides)))
	return nil
}

// text reads a string; null is as if nothing was said.
func text(o dialect.Object, name string) (value string, said bool, err error) {
	var s *string
	if raw, ok := o[name]; ok && json.Unmarshal(raw, &s) != nil {
		return "", false, dialect.Invalid("%s must be a string", name)
	}
	if s == nil {
		return "", false, nil
	}
	return *s, true, nil
}

// flag reads a boolean, also as a word; false when nothing was said.
func flag(o dialect.Object, name string) (bool, error) {
	var v any
	if raw, ok := o[name]; ok && json.Unmarshal(raw, &v) != nil {
		return false, dialect.Invalid("%s must be true or false", name)
	}
	switch v := v.(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case string:
		if yes, err := truth(v); err == nil {
			return yes, nil
		}
	}
	return false, dialect.Invalid("%s must be true or false", name)
}

// whole reads a number, also as a string; 0 when nothing was said.
func whole(o dialect.Object, name string) (int, error) {
	raw, ok := o[name]
	if !ok {
		return 0, nil
	}
	digits := string(raw)
	var s *string
	if json.Unmarshal(raw, &s) == nil {
		if s == nil || *s == "" {
			return 0, nil
		}
		digits = *s
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 0 {
		return 0, dialect.Invalid("%s must be a whole number", name)
	}
	return int(n), nil
}
