package horizon

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// Sources of an image's bytes, as the dashboard names them (section 6.5).
const (
	fromURL    = "url"
	fromForm   = "file-legacy" // in the same request, which is a form
	fromUpload = "file-direct" // the browser sends them to the image service afterwards
)

// draft is an image to be made.
type draft struct {
	image  daemon.NewImage
	direct bool // the browser wants to know where the bytes go
}

// decodeDraft reads a JSON body, or a form's fields as if they were one.
func decodeDraft(o dialect.Object, form bool) (d draft, err error) {
	f, err := decodeFields(o)
	if err != nil {
		return d, err
	}
	d.image = daemon.NewImage{
		Name: f.name, Visibility: f.visibility, Protected: f.protected, MinDiskGB: f.minDiskGB, MinRAMMB: f.minRAMMB, Format: f.format,
		Metadata: f.metadata,
	}
	if f.description != nil {
		d.image.Description = *f.description
	}
	source, from, err := decodeSource(o, form)
	if err != nil {
		return d, err
	}
	d.direct = source == fromUpload
	if source == fromURL {
		d.image.URL = from
	} else {
		d.image.Bytes = -1 // nobody says how many will come
	}
	return d, nil
}

// decodeSource says where the bytes come from: as source_type has it, or else what the other fields mean. Older clients
// send no source_type, and all of them send fields that are of no use to it. "" is an image whose bytes come some day.
func decodeSource(o dialect.Object, form bool) (source, from string, err error) {
	if source, _, err = text(o, "source_type"); err != nil {
		return "", "", err
	}
	from, _, err = text(o, "image_url")
	if err != nil {
		return "", "", err
	}
	if _, err := flag(o, "import_data"); err != nil { // either way it is copied
		return "", "", err
	}
	var file *string
	if raw, ok := o["data"]; ok && !form && json.Unmarshal(raw, &file) != nil && source != fromURL {
		return "", "", dialect.Invalid("data must be the name of a file")
	}
	switch {
	case form && (source == fromForm || source == ""):
		return fromForm, "", nil
	case form:
		return "", "", dialect.Invalid("source_type is %.80q: of a form it must be %s", source, fromForm)
	case source == fromUpload, source == "" && from == "" && file != nil:
		return fromUpload, "", nil
	case source == "" && from == "":
		return "", "", nil
	case source != fromURL && source != "":
		return "", "", dialect.Invalid("source_type is %.80q: of JSON it must be %s or %s", source, fromURL, fromUpload)
	case from == "":
		return "", "", dialect.Invalid("image_url is missing")
	}
	return fromURL, from, nil
}

func (f *Family) create(c *call) (dialect.Reply, error) {
	d, err := decodeDraft(c.body, false)
	if err != nil {
		return dialect.Reply{}, err
	}
	i, op, err := f.daemon.AddImage(c.Context(), c.Caller, d.image)
	if err != nil {
		return dialect.Reply{}, err
	}
	return created(c, i, op, d.direct)
}

// created tells of a new image. Its Location has the name, not the id: a quirk that is kept.
func created(c *call, i daemon.Image, op daemon.Operation, direct bool) (dialect.Reply, error) {
	var out any = shown(i, false)
	if direct {
		// The browser shows its token at another door. What it did not send as one is not told to it.
		out = struct {
			image
			UploadURL string  `json:"upload_url"`
			TokenID   *string `json:"token_id"`
		}{shown(i, false), c.Base + "/image/v2/images/" + i.ID + "/file", orNull(c.Header.Get("X-Auth-Token"))}
	}
	p, err := reply(http.StatusCreated, out)
	p.Header = http.Header{"Location": {c.Public + prefix + "/images/" + url.PathEscape(i.Name)}}
	p.Operation = op.ID
	return p, err
}
