package horizon

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// patch changes an image as its form says: what is omitted goes back to its default, but for the description and the
// properties, of which none is ever removed (section 6.5).
func (f *Family) patch(c *call) (dialect.Reply, error) {
	in, err := decodeFields(c.body)
	if err != nil {
		return dialect.Reply{}, err
	}
	if in.format != "" {
		i, err := f.find(c)
		if err != nil {
			return dialect.Reply{}, err
		}
		if i.Format != "" && i.Format != in.format {
			return dialect.Reply{}, dialect.Invalid("disk_format is %s: an image's format does not change", i.Format)
		}
	}
	ch := daemon.ImageChange{
		Name: &in.name, Visibility: &in.visibility, Protected: &in.protected, MinDiskGB: &in.minDiskGB, MinRAMMB: &in.minRAMMB,
		SetMetadata: in.metadata,
	}
	if in.description != nil {
		describe(&ch, *in.description)
	}
	return f.change(c, ch)
}

func (f *Family) change(c *call, ch daemon.ImageChange) (dialect.Reply, error) {
	if _, err := f.daemon.SetImage(c.Context(), c.Caller, c.id, ch); err != nil {
		return dialect.Reply{}, err
	}
	return dialect.Reply{Status: http.StatusNoContent}, nil
}

// describe sets the description. An item of that name, which another dialect may have written, would come to light where
// the description is empty.
func describe(ch *daemon.ImageChange, text string) {
	ch.Description = &text
	ch.RemoveMetadata = append(ch.RemoveMetadata, "description")
}

// patchProperties adds, writes over and removes properties, in one change.
func (f *Family) patchProperties(c *call) (dialect.Reply, error) {
	ch, err := decodeProperties(c.body)
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.change(c, ch)
}

// decodeProperties reads {"updated": {...}, "removed": [...]}. Removing what is not there, or is no property, is nothing.
func decodeProperties(o dialect.Object) (ch daemon.ImageChange, err error) {
	updated, err := o.Object("updated")
	if err != nil {
		return ch, err
	}
	var removed []*string
	if raw, ok := o["removed"]; ok && json.Unmarshal(raw, &removed) != nil {
		return ch, dialect.Invalid("removed must be a list of names")
	}
	for name := range updated {
		if !writable(name) {
			return ch, dialect.Invalid("%.80q is no property that can be set here", name)
		}
	}
	if err := hiddenAsText(updated); err != nil {
		return ch, err
	}
	if ch.SetMetadata, err = updated.Strings(); err != nil {
		return ch, err
	}
	for _, name := range removed {
		if name == nil {
			return ch, dialect.Invalid("removed must be a list of names")
		}
		if _, both := updated[*name]; both {
			return ch, dialect.Invalid("%.80q is both updated and removed", *name)
		}
		if *name == "description" {
			describe(&ch, "")
		} else if writable(*name) {
			ch.RemoveMetadata = append(ch.RemoveMetadata, *name)
		}
	}
	if text, ok := ch.SetMetadata["description"]; ok {
		delete(ch.SetMetadata, "description")
		describe(&ch, text)
	}
	return ch, nil
}

// writable says whether a name is a property's, and not an attribute's or one of those that are computed.
func writable(name string) bool {
	if name == "tags" {
		return false // a list, where properties are strings
	}
	return slices.Contains(kept, name) || !slices.Contains(attributes, name) && !slices.Contains(more, name) && !slices.Contains(computed, name)
}
