package synnefo

import (
	"errors"
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

func (f *family) listBrief(r request) (dialect.Reply, error)  { return f.list(r, false) }
func (f *family) listDetail(r request) (dialect.Reply, error) { return f.list(r, true) }

// list lists whole: there are no pages and no filters in this dialect. A client that asks what changed, when nothing
// has, gets 304.
func (f *family) list(r request, detail bool) (dialect.Reply, error) {
	since, err := f.changedSince(r.Request.Request)
	if err != nil {
		return dialect.Reply{}, err
	}
	page, err := f.daemon.FindImages(r.Context(), r.Caller, daemon.ImageQuery{ChangedSince: since, Sort: daemon.ByID, Ascending: true})
	if err != nil {
		return dialect.Reply{}, err
	}
	if !since.IsZero() && len(page.Images) == 0 {
		return empty(http.StatusNotModified), nil
	}
	if detail {
		return f.reply(r.Request, http.StatusOK, detailed{page.Images, r.Base})
	}
	return f.reply(r.Request, http.StatusOK, brief{page.Images})
}

// create is known and never done.
func (f *family) create(request) (dialect.Reply, error) {
	return dialect.Reply{}, dialect.Refuse(f.noCreate, daemon.Unsupported, "images are not made through this API")
}

// look finds an image. What is purged is not there any more.
func (f *family) look(r request) (daemon.Image, error) {
	m, err := f.daemon.Image(r.Context(), r.Caller, r.id)
	if err == nil && m.State == daemon.ImageDeleted {
		return m, purged()
	}
	return m, err
}

// set changes an image. What is purged is not there for who writes, either.
func (f *family) set(r request, ch daemon.ImageChange) (daemon.Image, error) {
	m, err := f.daemon.SetImage(r.Context(), r.Caller, r.id, ch)
	if errors.Is(err, daemon.ErrPurged) {
		err = purged()
	}
	return m, err
}

func purged() error { return &daemon.Error{Code: daemon.NotFound, Message: "the image is deleted"} }

func (f *family) showImage(r request) (dialect.Reply, error) {
	m, err := f.look(r)
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.reply(r.Request, http.StatusOK, single{&m, r.Base})
}

// deleteImage asks for the deletion. One that was asked for before is not there.
func (f *family) deleteImage(r request) (dialect.Reply, error) {
	_, err := f.daemon.RequestActiveImageDelete(r.Context(), r.Caller, r.id)
	if e, ok := errors.AsType[*daemon.Error](err); ok && e.Code == daemon.Gone {
		return dialect.Reply{}, &dialect.Refusal{Status: http.StatusNotFound, Code: e.Code, Message: e.Message, Err: e.Err}
	}
	if err != nil {
		return dialect.Reply{}, err
	}
	return empty(http.StatusNoContent), nil
}

func (f *family) showMetadata(r request) (dialect.Reply, error) {
	m, err := f.look(r)
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.reply(r.Request, http.StatusOK, metadata{m.Metadata, true})
}

// mergeMetadata adds items and writes over them. An image that is not there comes before a body of the wrong shape, as
// the contract's section 5.5 has it: it is looked for only when the body cannot be used.
func (f *family) mergeMetadata(r request) (dialect.Reply, error) {
	o, err := readObject(r.Request)
	if err != nil {
		return dialect.Reply{}, err
	}
	items, err := decodeMetadata(o)
	if err != nil {
		if _, missing := f.look(r); missing != nil {
			return dialect.Reply{}, missing
		}
		return dialect.Reply{}, err
	}
	m, err := f.set(r, daemon.ImageChange{SetMetadata: items})
	if err != nil {
		return dialect.Reply{}, err
	}
	return f.reply(r.Request, http.StatusCreated, metadata{m.Metadata, false})
}

func (f *family) showItem(r request) (dialect.Reply, error) {
	m, err := f.look(r)
	if err != nil {
		return dialect.Reply{}, err
	}
	value, ok := m.Metadata[r.key]
	if !ok {
		return dialect.Reply{}, &daemon.Error{Code: daemon.NotFound, Message: "the image has no metadata of this key"}
	}
	return f.reply(r.Request, http.StatusOK, item{r.key, value})
}

func (f *family) putItem(r request) (dialect.Reply, error) {
	o, err := readObject(r.Request)
	if err != nil {
		return dialect.Reply{}, err
	}
	value, err := decodeItem(o, r.key)
	if err != nil {
		return dialect.Reply{}, err
	}
	if _, err := f.set(r, daemon.ImageChange{SetMetadata: map[string]string{r.key: value}}); err != nil {
		return dialect.Reply{}, err
	}
	return f.reply(r.Request, http.StatusCreated, item{r.key, value})
}

// deleteItem removes an item. That there was none is no fault.
func (f *family) deleteItem(r request) (dialect.Reply, error) {
	if _, err := f.set(r, daemon.ImageChange{RemoveMetadata: []string{r.key}}); err != nil {
		return dialect.Reply{}, err
	}
	return empty(http.StatusNoContent), nil
}
