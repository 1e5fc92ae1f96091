package glance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/imageservice"
	"github.com/capsuled/capsuled/daemon"
)

// readOnly are attributes that nobody writes.
var readOnly = []string{"status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "created_at", "updated_at", "self", "file",
	"schema", "locations", "direct_url", "stores", "id"}

// attributes are those that are written, beside the properties.
var attributes = []string{"name", "visibility", "protected", "min_disk", "min_ram", "disk_format", "container_format", "owner", "tags", "os_hidden"}

// shown is an image, its properties among its attributes. A property that has an attribute's name is not shown.
func shown(i daemon.Image) map[string]any {
	out := make(map[string]any, len(i.Metadata)+24)
	for name, value := range i.Metadata {
		out[name] = value
	}
	if i.Description != "" {
		out["description"] = i.Description
	}
	var size, virtual, algorithm, digest any
	if i.Digest != "" {
		size, virtual = i.FileBytes, i.VirtualBytes
		algorithm, digest = "sha256", strings.TrimPrefix(i.Digest, "sha256:")
	}
	self := "/v2/images/" + i.ID
	for name, value := range map[string]any{
		"id": i.ID, "name": orNull(i.Name), "status": imageservice.Word(&i), "visibility": i.Visibility, "protected": i.Protected, "owner": i.Owner,
		"min_disk": i.MinDiskGB, "min_ram": i.MinRAMMB, "disk_format": orNull(i.Format), "container_format": "bare", "tags": tagsOf(i.Metadata),
		"os_hidden": hidden(i.Metadata), "size": size, "virtual_size": virtual, "checksum": nil, "os_hash_algo": algorithm, "os_hash_value": digest,
		"created_at": imageservice.Stamp(i.CreatedAt), "updated_at": imageservice.Stamp(i.UpdatedAt), "self": self, "file": self + "/file", "schema": "/v2/schemas/image",
	} {
		out[name] = value
	}
	for _, name := range []string{"locations", "direct_url", "stores"} {
		delete(out, name)
	}
	return out
}

var listed = dialect.NewText(func(i daemon.Image) any { return shown(i) })

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// tagsOf reads the item "tags". What is no JSON array of strings, since another dialect wrote it, is one tag.
func tagsOf(metadata map[string]string) []string {
	value := metadata["tags"]
	var tags []string
	if json.Unmarshal([]byte(value), &tags) == nil && tags != nil {
		return tags
	}
	if value == "" || value == "null" {
		return []string{}
	}
	return []string{value}
}

// maxTags is Glance's image_tag_quota. Another dialect may have written more in the item: they may become fewer.
const maxTags = 128

// setTags writes them, each once, in the order that clients count them in; OverQuota when they become too many.
func setTags(metadata map[string]string, given []string) error {
	var tags []string
	there := map[string]bool{}
	for _, tag := range given {
		if !there[tag] {
			tags, there[tag] = append(tags, tag), true
		}
	}
	if n := len(tags); n > maxTags && n > len(tagsOf(metadata)) {
		return tooManyTags(n)
	}
	if len(tags) == 0 {
		delete(metadata, "tags")
		return nil
	}
	text, _ := json.Marshal(tags) // strings always can be
	metadata["tags"] = string(text)
	return nil
}

func tooManyTags(n int) *dialect.Refusal {
	return &dialect.Refusal{Code: daemon.OverQuota, Message: fmt.Sprintf("the quota of tags is exceeded: there would be %d, and %d are allowed", n, maxTags)}
}

func hidden(metadata map[string]string) bool {
	return slices.Contains([]string{"true", "True", "1"}, metadata["os_hidden"])
}

// image reads one. What is on its way out is gone here (section 10: clients wait for a 404).
func (f *Family) image(c *call) (daemon.Image, error) {
	i, err := f.daemon.Image(c.Context(), c.Caller, c.id())
	if err == nil && (i.State == daemon.ImageDeletePending || i.State == daemon.ImageDeleted) {
		err = noImage(c.id())
	}
	return i, err
}

func (f *Family) show(c *call) (dialect.Reply, error) {
	i, err := f.image(c)
	if err != nil {
		return dialect.Reply{}, err
	}
	return reply(http.StatusOK, shown(i))
}

func (f *Family) remove(c *call) (dialect.Reply, error) {
	_, err := f.daemon.RequestImageDelete(c.Context(), c.Caller, c.id())
	return noContent(err)
}
