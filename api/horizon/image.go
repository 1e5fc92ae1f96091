package horizon

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

// image is how the dashboard sees one (section 6.3). What there is not is null.
type image struct {
	Architecture    *string        `json:"architecture"`
	Checksum        *string        `json:"checksum"` // "sha256:...": what identifies the bytes here
	ContainerFormat string         `json:"container_format"`
	CreatedAt       string         `json:"created_at"`
	DiskFormat      *string        `json:"disk_format"`
	ID              string         `json:"id"`
	IsPublic        bool           `json:"is_public"`
	MinDisk         int            `json:"min_disk"` // GiB
	MinRAM          int            `json:"min_ram"`  // MiB
	Name            *string        `json:"name"`
	Owner           string         `json:"owner"`
	Properties      map[string]any `json:"properties"`
	Protected       bool           `json:"protected"`
	Size            int64          `json:"size"`
	Status          string         `json:"status"`
	UpdatedAt       string         `json:"updated_at"`
	Visibility      string         `json:"visibility"`
}

// attributes are shown beside the properties, so that none of these names is one of them.
var attributes = []string{"architecture", "checksum", "container_format", "created_at", "disk_format", "id", "is_public", "min_disk", "min_ram",
	"name", "owner", "properties", "protected", "size", "status", "updated_at", "visibility"}

// more are properties that only the reply to one image has.
var more = []string{"file", "locations", "schema", "tags", "virtual_size", "kernel_id", "ramdisk_id", "image_url"}

// kept are those of attributes and more whose value is an item of the image's metadata.
var kept = []string{"architecture", "kernel_id", "ramdisk_id", "image_url", "tags"}

func shown(i daemon.Image, extended bool) image {
	return image{
		Architecture: orNull(i.Metadata["architecture"]), Checksum: orNull(i.Digest), ContainerFormat: "bare", CreatedAt: imageservice.Stamp(i.CreatedAt),
		DiskFormat: orNull(i.Format), ID: i.ID, IsPublic: i.Visibility == daemon.Public, MinDisk: i.MinDiskGB, MinRAM: i.MinRAMMB,
		Name: orNull(i.Name), Owner: i.Owner, Properties: propertiesOf(i, extended), Protected: i.Protected, Size: i.FileBytes,
		Status: imageservice.Word(&i), UpdatedAt: imageservice.Stamp(i.UpdatedAt), Visibility: string(i.Visibility),
	}
}

var listed = dialect.NewText(func(i daemon.Image) any { return shown(i, false) })

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// propertiesOf are what an image says beyond its attributes.
func propertiesOf(i daemon.Image, extended bool) map[string]any {
	out := make(map[string]any, len(i.Metadata)+1)
	for name, value := range i.Metadata {
		if slices.Contains(attributes, name) || slices.Contains(more, name) && !(extended && slices.Contains(kept, name)) {
			continue
		}
		out[name] = value
	}
	if v, ok := i.Metadata["os_hidden"]; ok {
		if hides, err := truth(v); err == nil {
			out["os_hidden"] = hides
		}
	}
	if i.Description != "" {
		out["description"] = i.Description
	}
	if extended {
		out["file"], out["schema"] = "/v2/images/"+i.ID+"/file", "/v2/schemas/image"
		out["tags"] = tagsOf(i)
		out["virtual_size"] = nil
		if i.VirtualBytes > 0 {
			out["virtual_size"] = i.VirtualBytes
		}
	}
	return out
}

// tagsOf reads the item "tags", a JSON array. What is none, since another dialect wrote it, is one tag.
func tagsOf(i daemon.Image) []string {
	tags := []string{}
	value := i.Metadata["tags"]
	if json.Unmarshal([]byte(value), &tags) != nil || tags == nil {
		tags = []string{}
		if value != "" && value != "null" {
			tags = append(tags, value)
		}
	}
	return tags
}

func hidden(i daemon.Image) bool {
	hides, err := truth(i.Metadata["os_hidden"])
	return err == nil && hides
}

// truth reads a word as JavaScript, Python and people write it (section 6.4).
func truth(word string) (bool, error) {
	switch word {
	case "True", "true", "1":
		return true, nil
	case "False", "false", "0", "None", "":
		return false, nil
	}
	return false, dialect.Invalid("%.80q is neither true nor false", word)
}

// find reads an image that is not a tombstone of one that was deleted: the dashboard knows none (section 3).
func (f *Family) find(c *call) (daemon.Image, error) {
	i, err := f.daemon.Image(c.Context(), c.Caller, c.id)
	if err == nil && i.State == daemon.ImageDeleted {
		err = dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no image %s", c.id)
	}
	return i, err
}

func (f *Family) show(c *call) (dialect.Reply, error) {
	i, err := f.find(c)
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(http.StatusOK, shown(i, true))
}

func (f *Family) properties(c *call) (dialect.Reply, error) {
	i, err := f.find(c)
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(http.StatusOK, propertiesOf(i, false))
}

func (f *Family) remove(c *call) (dialect.Reply, error) {
	if _, err := f.daemon.RequestImageDelete(c.Context(), c.Caller, c.id); err != nil {
		return dialect.Reply{}, err
	}
	return dialect.Reply{Status: http.StatusNoContent}, nil
}
