package daemon_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/imagestore"
)

// shelf is the part of the machine that keeps the bytes of images. Bytes are text here, and what begins with "QFI" is
// qcow2.
type shelf struct {
	uploads map[imagestore.UploadID]*fakeUpload
	urls    map[string]string // what Fetch finds
	corrupt map[imagestore.Digest]bool
	begun   int
	cleaned []imagestore.Clean // what disks were flattened by
	patient map[string]bool    // calls that wait for their context to end
}

type fakeUpload struct {
	bytes    int64
	sum      imagestore.Digest
	content  string
	finished bool
	touched  time.Time
}

func newShelf() shelf {
	return shelf{uploads: map[imagestore.UploadID]*fakeUpload{}, urls: map[string]string{}, corrupt: map[imagestore.Digest]bool{}, patient: map[string]bool{}}
}

// of describes an image of such bytes.
func of(content string) imagestore.Image {
	sum := sha256.Sum256([]byte(content))
	i := imagestore.Image{Digest: imagestore.Digest("sha256:" + hex.EncodeToString(sum[:])), Format: imagestore.Raw, FileBytes: int64(len(content)), VirtualBytes: int64(len(content))}
	if strings.HasPrefix(content, "QFI") {
		i.Format = imagestore.Qcow2
	}
	return i
}

// waits ends with ctx for the calls that are to be cancelled.
func (m *machine) waits(ctx context.Context, call string) error {
	m.mu.Lock()
	wait := m.patient[call]
	m.mu.Unlock()
	if !wait {
		return nil
	}
	<-ctx.Done()
	return fmt.Errorf("%s: %w", call, ctx.Err())
}

func (m *machine) Fetch(ctx context.Context, f imagestore.Fetch, p imagestore.Progress) (i imagestore.Image, err error) {
	if err := m.waits(ctx, "Fetch"); err != nil {
		return i, err
	}
	err = m.call(ctx, "Fetch", func() error {
		content, ok := m.urls[f.URL]
		if !ok {
			return &imagestore.SourceError{Fault: "it answers 404"}
		}
		p("copy", 1, -1)
		if i = of(content); f.SHA256 != "" && f.SHA256 != i.Digest {
			return fmt.Errorf("%w: %w", imagestore.ErrDigest, imagestore.ErrInvalid)
		}
		m.images[i.Digest] = i
		return nil
	})
	return i, err
}

func (m *machine) Flatten(ctx context.Context, key string, c imagestore.Clean, p imagestore.Progress) (i imagestore.Image, err error) {
	if err := m.waits(ctx, "Flatten"); err != nil {
		return i, err
	}
	err = m.call(ctx, "Flatten", func() error {
		if _, ok := m.dirs[key]["disk"]; !ok {
			return imagestore.ErrNotFound
		}
		m.cleaned = append(m.cleaned, c)
		p("copy", 1, 2)
		i = of("the disk of " + key)
		m.images[i.Digest] = i
		return nil
	})
	return i, err
}

func (m *machine) BeginUpload(ctx context.Context, size int64, sum imagestore.Digest) (id imagestore.UploadID, err error) {
	err = m.call(ctx, "BeginUpload", func() error {
		m.begun++
		id = imagestore.UploadID(fmt.Sprintf("U%d", m.begun))
		m.uploads[id] = &fakeUpload{bytes: size, sum: sum, touched: time.Now()}
		return nil
	})
	return id, err
}

func (m *machine) AppendUpload(ctx context.Context, id imagestore.UploadID, offset int64, r io.Reader) (received int64, err error) {
	content, failed := io.ReadAll(r)
	err = m.call(ctx, "AppendUpload", func() error {
		u := m.uploads[id]
		switch {
		case u == nil:
			return imagestore.ErrNotFound
		case u.finished:
			return imagestore.ErrConflict
		}
		received = int64(len(u.content))
		switch {
		case offset != received:
			return &imagestore.OffsetError{Received: received}
		case u.bytes >= 0 && received+int64(len(content)) > u.bytes:
			return fmt.Errorf("%w: too much", imagestore.ErrInvalid)
		}
		u.content += string(content)
		u.touched = time.Now()
		received = int64(len(u.content))
		return failed
	})
	return received, err
}

func (m *machine) FinishUpload(ctx context.Context, id imagestore.UploadID, p imagestore.Progress) (i imagestore.Image, err error) {
	if err := m.waits(ctx, "FinishUpload"); err != nil {
		return i, err
	}
	err = m.call(ctx, "FinishUpload", func() error {
		u := m.uploads[id]
		if u == nil {
			return imagestore.ErrNotFound
		}
		if u.bytes >= 0 && int64(len(u.content)) != u.bytes {
			return &imagestore.OffsetError{Received: int64(len(u.content))}
		}
		i = of(u.content)
		if strings.HasPrefix(u.content, "bad") || u.sum != "" && u.sum != i.Digest {
			delete(m.uploads, id)
			return fmt.Errorf("%w: it is bad", imagestore.ErrInvalid)
		}
		u.finished = true
		m.images[i.Digest] = i
		return nil
	})
	return i, err
}

func (m *machine) AbortUpload(ctx context.Context, id imagestore.UploadID) error {
	return m.call(ctx, "AbortUpload", func() error { delete(m.uploads, id); return nil })
}

// Uploads changes nothing, so no fault is made of it.
func (m *machine) Uploads(context.Context) (all []imagestore.Upload, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(m.uploads)) {
		u := m.uploads[id]
		all = append(all, imagestore.Upload{ID: id, Bytes: u.bytes, SHA256: u.sum, Received: int64(len(u.content)), Touched: u.touched})
	}
	return all, nil
}

// Digests changes nothing, so no fault is made of it.
func (m *machine) Digests(context.Context) ([]imagestore.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.images)), nil
}

func (m *machine) Open(ctx context.Context, d imagestore.Digest) (f *os.File, i imagestore.Image, err error) {
	err = m.call(ctx, "Open", func() error {
		var ok bool
		if i, ok = m.images[d]; !ok {
			return imagestore.ErrNotFound
		}
		f, err = os.Open(os.DevNull)
		return err
	})
	return f, i, err
}

func (m *machine) verifyImage(ctx context.Context, d imagestore.Digest, p imagestore.Progress) error {
	if err := m.waits(ctx, "VerifyImage"); err != nil {
		return err
	}
	return m.call(ctx, "VerifyImage", func() error {
		p("digest", 1, 2)
		if _, ok := m.images[d]; !ok {
			return imagestore.ErrNotFound
		}
		if m.corrupt[d] {
			return fmt.Errorf("%w: its bytes are others", imagestore.ErrCorrupt)
		}
		return nil
	})
}

// imagesOf is the machine as the store of images: the firewall has a Verify as well.
type imagesOf struct{ *machine }

func (m imagesOf) Verify(ctx context.Context, d imagestore.Digest, p imagestore.Progress) error {
	return m.machine.verifyImage(ctx, d, p)
}
