package synnefo_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

// owner has the images of the tests, but for those that say whose they are.
var owner = daemon.Caller{GUID: "guid-owner", From: "192.0.2.7", Request: "r-1"}

// fake is the daemon's part in images, in memory: owners, states and limits as the verbs promise them. Whatever the
// dialect has no business to ask for is an internal error.
type fake struct {
	*daemon.Daemon // nil: no other verb may be called

	mu     sync.Mutex // guards what follows
	images map[string]daemon.Image
	fail   error // what every verb answers, when set
	asked  []string
}

func newFake(images ...daemon.Image) *fake {
	f := &fake{images: map[string]daemon.Image{}}
	for _, m := range images {
		if m.Metadata == nil {
			m.Metadata = map[string]string{}
		}
		f.images[m.ID] = m
	}
	return f
}

func refused(code daemon.Code, message string) error {
	return &daemon.Error{Code: code, Message: message}
}

func (f *fake) enter(verb string, c daemon.Caller) error {
	f.asked = append(f.asked, verb)
	if c.GUID == "" {
		return refused(daemon.Internal, "the fake was asked by nobody")
	}
	return f.fail
}

func may(c daemon.Caller, m daemon.Image) bool {
	return m.Owner == c.GUID || m.Visibility != daemon.Private
}

func (f *fake) find(c daemon.Caller, id string) (daemon.Image, error) {
	m, ok := f.images[id]
	if !ok || !may(c, m) {
		return daemon.Image{}, refused(daemon.NotFound, "there is no such image")
	}
	return m, nil
}

func (f *fake) FindImages(_ context.Context, c daemon.Caller, q daemon.ImageQuery) (daemon.ImagePage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("find", c); err != nil {
		return daemon.ImagePage{}, err
	}
	if q.Sort != daemon.ByID || !q.Ascending || q.Limit != 0 || q.Marker != "" || len(q.States) != 0 || q.Name != nil {
		return daemon.ImagePage{}, refused(daemon.Internal, "the fake lists whole, by id")
	}
	var page daemon.ImagePage
	for _, m := range f.images {
		listed := m.Owner == c.GUID || m.Visibility == daemon.Public
		if q.ChangedSince.IsZero() {
			listed = listed && (m.State == daemon.ImageActive || m.State == daemon.ImagePending)
		} else {
			listed = listed && !m.UpdatedAt.Before(q.ChangedSince)
		}
		if listed {
			page.Images = append(page.Images, &m)
		}
	}
	slices.SortFunc(page.Images, func(a, b *daemon.Image) int { return strings.Compare(a.ID, b.ID) })
	return page, nil
}

func (f *fake) Image(_ context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("image", c); err != nil {
		return daemon.Image{}, err
	}
	return f.find(c, id)
}

// writable finds an image that a caller may change.
func (f *fake) writable(c daemon.Caller, id string) (daemon.Image, error) {
	m, err := f.find(c, id)
	switch {
	case err != nil:
		return m, err
	case m.Owner != c.GUID:
		return m, refused(daemon.Forbidden, "the image is somebody else's")
	case m.State == daemon.ImageDeletePending:
		return m, refused(daemon.Gone, "the image is being deleted")
	case m.State == daemon.ImageDeleted:
		return m, &daemon.Error{Code: daemon.Gone, Message: "the image is deleted", Err: daemon.ErrPurged}
	}
	return m, nil
}

func (f *fake) SetImage(_ context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("set", c); err != nil {
		return daemon.Image{}, err
	}
	m, err := f.writable(c, id)
	switch {
	case err != nil:
		return daemon.Image{}, err
	case m.State == daemon.ImageError:
		return daemon.Image{}, refused(daemon.Gone, "the image never came")
	case m.State != daemon.ImageActive:
		return daemon.Image{}, refused(daemon.Conflict, "the image is not ACTIVE yet")
	case ch.Name != nil || ch.ReplaceMetadata || ch.MustRemove:
		return daemon.Image{}, refused(daemon.Internal, "the fake merges, and removes what is there")
	}
	items := maps.Clone(m.Metadata)
	for key, value := range ch.SetMetadata {
		if n := utf8.RuneCountInString(key); n == 0 || n > daemon.MaxMetadataKey || len(value) > daemon.MaxMetadataValue || control(key) || control(value) {
			return daemon.Image{}, refused(daemon.Invalid, "metadata that cannot be kept")
		}
		items[key] = value
	}
	for _, key := range ch.RemoveMetadata {
		delete(items, key)
	}
	if len(items) > daemon.MaxMetadataItems {
		return daemon.Image{}, refused(daemon.OverQuota, "the limit of 128 items of metadata is exceeded")
	}
	m.Metadata, m.UpdatedAt = items, time.Now()
	f.images[id] = m
	return m, nil
}

func control(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\r", r) })
}

func (f *fake) RequestActiveImageDelete(_ context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("delete", c); err != nil {
		return daemon.Image{}, err
	}
	m, err := f.writable(c, id)
	switch {
	case err != nil:
		return daemon.Image{}, err
	case m.State == daemon.ImagePending:
		return daemon.Image{}, refused(daemon.Conflict, "the image is not ACTIVE yet")
	case m.Protected && m.State == daemon.ImageActive:
		return daemon.Image{}, refused(daemon.Forbidden, "the image is protected")
	}
	m.State, m.UpdatedAt = map[daemon.ImageState]daemon.ImageState{daemon.ImageActive: daemon.ImageDeletePending,
		daemon.ImageError: daemon.ImageDeleted}[m.State], time.Now()
	f.images[id] = m
	return m, nil
}

// TestFake: what the fake says is what a daemon says.
func TestFake(t *testing.T) {
	daemontest.RunChanges(t, func(_ *testing.T, state daemon.ImageState, protected bool) (daemontest.Changes, daemon.Caller, string) {
		return newFake(image(alpha, "", func(m *daemon.Image) { m.State, m.Protected = state, protected })), owner, alpha
	})
}
