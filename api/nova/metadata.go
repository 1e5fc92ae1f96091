package nova

import (
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

func (c *call) items() (dialect.Reply, error) {
	img, err := c.image()
	if err != nil {
		return dialect.Reply{}, err
	}
	return metadataReply(img.Metadata), nil
}

// merge adds items, and writes over those that are there; it answers all of them.
func (c *call) merge() (dialect.Reply, error) { return c.write(false) }

// replace makes the items of the body all that there are.
func (c *call) replace() (dialect.Reply, error) { return c.write(true) }

func (c *call) write(replace bool) (dialect.Reply, error) {
	items, err := c.itemsOf("metadata")
	if err != nil {
		return dialect.Reply{}, err
	}
	img, err := c.set(daemon.ImageChange{SetMetadata: items, ReplaceMetadata: replace})
	if err != nil {
		return dialect.Reply{}, err
	}
	return metadataReply(img.Metadata), nil
}

func (c *call) set(change daemon.ImageChange) (daemon.Image, error) {
	if err := c.checkID(); err != nil {
		return daemon.Image{}, err
	}
	return c.images.SetImage(c.Context(), c.Caller, c.id, change)
}

func (c *call) item() (dialect.Reply, error) {
	img, err := c.image()
	if err != nil {
		return dialect.Reply{}, err
	}
	value, ok := img.Metadata[c.key]
	if !ok {
		return dialect.Reply{}, &dialect.Refusal{Code: daemon.NotFound, Message: "metadata item was not found"}
	}
	return itemReply(c.key, value), nil
}

// putItem writes one item: the body must have exactly that of the path.
func (c *call) putItem() (dialect.Reply, error) {
	items, err := c.itemsOf("meta")
	if err != nil {
		return dialect.Reply{}, err
	}
	if len(items) != 1 {
		return dialect.Reply{}, dialect.Invalid("meta must have exactly one item, not %d", len(items))
	}
	value, ok := items[c.key]
	if !ok {
		return dialect.Reply{}, dialect.Invalid("request body and URI mismatch: meta must have the key %.255q", c.key)
	}
	if _, err := c.set(daemon.ImageChange{SetMetadata: items}); err != nil {
		return dialect.Reply{}, err
	}
	return itemReply(c.key, value), nil
}

func (c *call) removeItem() (dialect.Reply, error) {
	_, err := c.set(daemon.ImageChange{RemoveMetadata: []string{c.key}, MustRemove: true})
	return dialect.Reply{Status: http.StatusNoContent}, err
}

func metadataReply(items map[string]string) dialect.Reply {
	return reply(append(appendItems([]byte(`{"metadata":`), items), '}'))
}

func itemReply(key, value string) dialect.Reply {
	b := append(appendString([]byte(`{"meta":{`), key), ':')
	return reply(append(appendString(b, value), `}}`...))
}
