package imagestore_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/imagestore"
)

// sent is what a caller knows of an upload.
type sent struct {
	source   int
	received int
	finished bool
}

// uploading is what the records of a caller would say about images and uploads.
type uploading struct {
	t       *testing.T
	dir     string
	store   *imagestore.Store
	sources [][]byte // the last is no image
	digests []imagestore.Digest
	images  map[imagestore.Digest]bool
	uploads map[imagestore.UploadID]*sent
}

// some draws an upload, if there is one.
func (m *uploading) some(r *rapid.T) (imagestore.UploadID, *sent) {
	ids := slices.Sorted(maps.Keys(m.uploads))
	if len(ids) == 0 {
		return "", nil
	}
	id := rapid.SampledFrom(ids).Draw(r, "upload")
	return id, m.uploads[id]
}

func (m *uploading) actions() map[string]func(*rapid.T) {
	ctx := m.t.Context()
	return map[string]func(*rapid.T){
		"begin": func(r *rapid.T) {
			i := rapid.IntRange(0, len(m.sources)-1).Draw(r, "source")
			size, sum := int64(-1), imagestore.Digest("")
			if rapid.Bool().Draw(r, "announced") {
				size, sum = int64(len(m.sources[i])), m.digests[i]
			}
			id, err := m.store.BeginUpload(ctx, size, sum)
			if err != nil {
				r.Fatal(err)
			}
			m.uploads[id] = &sent{source: i}
		},
		"append": func(r *rapid.T) {
			id, u := m.some(r)
			if u == nil {
				return
			}
			rest := m.sources[u.source][u.received:]
			n := rapid.OneOf(rapid.Just(len(rest)), rapid.IntRange(0, len(rest))).Draw(r, "bytes")
			got, err := m.store.AppendUpload(ctx, id, int64(u.received), bytes.NewReader(rest[:n]))
			if u.finished {
				if !errors.Is(err, imagestore.ErrConflict) {
					r.Fatal(err)
				}
				return
			}
			if u.received += n; err != nil || got != int64(u.received) {
				r.Fatal(got, err)
			}
		},
		"finish": func(r *rapid.T) {
			id, u := m.some(r)
			if u == nil || u.received < len(m.sources[u.source]) {
				return
			}
			img, err := m.store.FinishUpload(ctx, id, nil)
			if u.source == len(m.sources)-1 {
				if !errors.Is(err, imagestore.ErrInvalid) {
					r.Fatal(img, err)
				}
				delete(m.uploads, id)
				return
			}
			if err != nil || img.Digest != m.digests[u.source] {
				r.Fatal(img, err)
			}
			u.finished, m.images[img.Digest] = true, true
		},
		"abort": func(r *rapid.T) {
			id, _ := m.some(r)
			if err := m.store.AbortUpload(ctx, id); err != nil {
				r.Fatal(err)
			}
			delete(m.uploads, id)
		},
		"import": func(r *rapid.T) {
			i := rapid.IntRange(0, len(m.sources)-2).Draw(r, "source")
			img, err := m.store.ImportFrom(ctx, imagestore.Source{Reader: bytes.NewReader(m.sources[i]), Bytes: -1}, nil)
			if err != nil {
				r.Fatal(err)
			}
			m.images[img.Digest] = true
		},
		"remove": func(r *rapid.T) {
			d := rapid.SampledFrom(m.digests).Draw(r, "digest")
			if err := m.store.Remove(ctx, d); err != nil {
				r.Fatal(err)
			}
			delete(m.images, d)
		},
		"restart": func(r *rapid.T) {
			m.reopen()
			m.sweep(r)
		},
		"a day passes": func(r *rapid.T) {
			incoming := filepath.Join(m.dir, "images", "incoming")
			for _, name := range tree(m.t, incoming) {
				past := time.Now().Add(-25 * time.Hour)
				if err := os.Chtimes(filepath.Join(incoming, name), past, past); err != nil {
					r.Fatal(err)
				}
			}
			clear(m.uploads)
			m.sweep(r)
		},
		"": m.check,
	}
}

func (m *uploading) reopen() {
	if m.store != nil {
		if err := m.store.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
	m.store = open(m.t, imagestore.Options{Dir: m.dir})
}

func (m *uploading) sweep(r *rapid.T) {
	if _, err := m.store.Sweep(m.t.Context(), m.images, nil); err != nil {
		r.Fatal(err)
	}
}

// check wants exactly the images and the uploads that the model has, each with its bytes.
func (m *uploading) check(r *rapid.T) {
	want, got := slices.Clone(emptyTree), []string(nil)
	for d := range m.images {
		want = append(want, "images/"+strings.TrimPrefix(string(d), "sha256:")+".raw")
	}
	for id := range m.uploads {
		want = append(want, "images/incoming/upload."+string(id))
	}
	for _, name := range tree(m.t, m.dir) {
		if parts := strings.SplitN(name, ".", 3); strings.HasSuffix(parts[0], "/upload") {
			name = parts[0] + "." + parts[1]
		}
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		r.Fatal(diff)
	}
	for d := range m.images {
		if err := m.store.Verify(m.t.Context(), d, nil); err != nil {
			r.Fatal(err)
		}
	}
	all, err := m.store.Uploads(m.t.Context())
	for _, u := range all {
		if known := m.uploads[u.ID]; known == nil || u.Received != int64(known.received) {
			r.Fatalf("%+v is %+v, %v", u, known, err)
		}
	}
}

// Any interleaving of uploads, imports, removals, restarts and sweeps leaves no orphan and no other bytes.
func TestUploadsInAnyOrder(t *testing.T) {
	m := &uploading{t: t}
	for seed := range 2 {
		m.sources = append(m.sources, read(t, write(t, 256<<10, map[int64][]byte{0: mbr(0x83, 100), 70_000: noise(byte(seed), 100_000)})))
	}
	m.sources = append(m.sources, noise(9, 5000))
	for _, b := range m.sources {
		m.digests = append(m.digests, digestOf(t, write(t, int64(len(b)), map[int64][]byte{0: b})))
	}
	at, runs := t.TempDir(), 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m.dir, m.images, m.uploads = filepath.Join(at, fmt.Sprint(runs)), map[imagestore.Digest]bool{}, map[imagestore.UploadID]*sent{}
		m.store = nil
		m.reopen()
		r.Repeat(m.actions())
		if err := errors.Join(m.store.Close(), os.RemoveAll(m.dir)); err != nil {
			r.Fatal(err)
		}
	})
}
