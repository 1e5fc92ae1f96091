package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/daemon"
)

// jammy are the bytes of image-1.
var (
	jammy       = strings.Repeat("0123456789abcdef", 4096)
	jammyDigest = digestOf([]byte(jammy))
)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// fakeImage is an image with its bytes, and how many were announced (-1: nobody said).
type fakeImage struct {
	daemon.Image
	bytes   []byte
	awaited int64
}

func conflict(format string, args ...any) error {
	return &daemon.Error{Code: daemon.Conflict, Message: fmt.Sprintf(format, args...)}
}

// withImage runs what a verb does to an image, with the lock held.
func (f *fakeDaemon) withImage(ctx context.Context, c daemon.Caller, id string, do func(*fakeImage) error) error {
	if err := f.enter(ctx, c); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	img, ok := f.images[id]
	if !ok {
		return &daemon.Error{Code: daemon.NotFound, Message: "no such image"}
	}
	return do(img)
}

func (f *fakeDaemon) AddImage(ctx context.Context, c daemon.Caller, n daemon.NewImage) (daemon.Image, daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.Image{}, daemon.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.added = append(f.added, n)
	img := &fakeImage{awaited: n.Bytes, Image: daemon.Image{ID: fmt.Sprintf("image-%d", len(f.images)+1), Name: n.Name, Description: n.Description,
		State: daemon.ImagePending, Visibility: n.Visibility, Protected: n.Protected, Metadata: n.Metadata, Owner: c.GUID, CreatedAt: epoch, UpdatedAt: epoch}}
	f.images[img.ID] = img
	if n.Path == "" && n.URL == "" {
		return img.Image, daemon.Operation{}, nil
	}
	return img.Image, f.begin(c, "image-add", img.ID), nil
}

func (f *fakeDaemon) FindImages(ctx context.Context, c daemon.Caller, q daemon.ImageQuery) (daemon.ImagePage, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.ImagePage{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, q)
	states := q.States
	if len(states) == 0 {
		states = []daemon.ImageState{daemon.ImageActive, daemon.ImagePending}
	}
	var page daemon.ImagePage
	seen := q.Marker == ""
	for _, id := range slices.Sorted(maps.Keys(f.images)) {
		img := f.images[id]
		if !slices.Contains(states, img.State) || q.Own && img.Owner != c.GUID || q.Owner != "" && q.Owner != img.Owner ||
			q.Name != nil && *q.Name != img.Name || q.Visibility != "" && q.Visibility != img.Visibility {
			continue
		}
		switch {
		case !seen:
			seen = id == q.Marker
		case q.Limit > 0 && len(page.Images) == q.Limit:
			page.More = true
		default:
			shown := img.Image
			page.Images = append(page.Images, &shown)
		}
	}
	if !seen {
		return daemon.ImagePage{}, &daemon.Error{Code: daemon.Invalid, Message: "no image in this list has the id of the marker"}
	}
	return page, nil
}

func (f *fakeDaemon) Image(ctx context.Context, c daemon.Caller, id string) (v daemon.Image, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error { v = img.Image; return nil })
	return v, err
}

func (f *fakeDaemon) SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (v daemon.Image, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		f.changes = append(f.changes, ch)
		switch img.State {
		case daemon.ImageActive:
		case daemon.ImagePending:
			return conflict("the image is %s", img.State)
		default:
			return &daemon.Error{Code: daemon.Gone, Message: "the image is " + string(img.State)}
		}
		for _, set := range []struct{ to, from *string }{{&img.Name, ch.Name}, {&img.Description, ch.Description}} {
			if set.from != nil {
				*set.to = *set.from
			}
		}
		if ch.Visibility != nil {
			img.Visibility = *ch.Visibility
		}
		metadata := maps.Clone(img.Metadata)
		if ch.ReplaceMetadata || metadata == nil {
			metadata = map[string]string{}
		}
		for _, key := range ch.RemoveMetadata {
			if _, ok := metadata[key]; !ok && ch.MustRemove {
				return &daemon.Error{Code: daemon.NotFound, Message: "the image has no such item"}
			}
			delete(metadata, key)
		}
		maps.Copy(metadata, ch.SetMetadata)
		img.Metadata, v = metadata, img.Image
		v.Metadata = metadata
		return nil
	})
	return v, err
}

func (f *fakeDaemon) AppendImage(ctx context.Context, c daemon.Caller, id string, offset int64, r io.Reader) (up daemon.ImageUpload, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		if img.State != daemon.ImagePending {
			return conflict("the image is %s", img.State)
		}
		up = daemon.ImageUpload{Received: int64(len(img.bytes)), Bytes: img.awaited}
		switch {
		case offset >= 0 && offset != up.Received:
			return conflict("%d bytes have come, and these begin at %d", up.Received, offset)
		case offset < 0:
			img.bytes = nil
		}
		return nil
	})
	for buffer := make([]byte, 1024); err == nil; { // the lock is not held while the other side is waited for
		n, ended := r.Read(buffer)
		f.set(func(f *fakeDaemon) {
			img := f.images[id]
			img.bytes = append(img.bytes, buffer[:n]...)
			up.Received, img.Arrived = int64(len(img.bytes)), true
		})
		if ended == io.EOF {
			return up, nil
		}
		if refused, ok := errors.AsType[*daemon.Error](ended); ok {
			err = refused
		} else if ended != nil {
			err = &daemon.Error{Code: daemon.Unavailable, Message: "the bytes stopped coming", Err: ended}
		}
	}
	return up, err
}

func (f *fakeDaemon) ImageProgress(ctx context.Context, c daemon.Caller, id string) (up daemon.ImageUpload, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		up = daemon.ImageUpload{Received: int64(len(img.bytes)), Bytes: img.awaited}
		if img.State != daemon.ImagePending {
			return conflict("the image is %s", img.State)
		}
		return nil
	})
	return up, err
}

func (f *fakeDaemon) FinishImage(ctx context.Context, c daemon.Caller, id string) (op daemon.Operation, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		if img.State != daemon.ImagePending || img.awaited >= 0 && img.awaited != int64(len(img.bytes)) {
			return conflict("%d bytes have come", len(img.bytes))
		}
		img.State, img.Digest, img.FileBytes, img.Format = daemon.ImageActive, digestOf(img.bytes), int64(len(img.bytes)), "raw"
		op = f.begin(c, "image-add", id)
		return nil
	})
	return op, err
}

func (f *fakeDaemon) OpenImage(ctx context.Context, c daemon.Caller, id string) (file *os.File, v daemon.Image, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		if img.State != daemon.ImageActive {
			return conflict("the image is %s", img.State)
		}
		if file, err = os.CreateTemp("", "image"); err != nil {
			return err
		}
		_ = os.Remove(file.Name())
		_, err := file.Write(img.bytes)
		v = img.Image
		return err
	})
	return file, v, err
}

// act on an image in one of the states.
func (f *fakeDaemon) actImage(ctx context.Context, c daemon.Caller, id, kind string, to daemon.ImageState, from ...daemon.ImageState) (op daemon.Operation, v daemon.Image, err error) {
	err = f.withImage(ctx, c, id, func(img *fakeImage) error {
		if !slices.Contains(from, img.State) {
			return conflict("the image is %s", img.State)
		}
		img.State, v = to, img.Image
		v.State = to
		if kind != "" {
			op = f.begin(c, kind, id)
		}
		return nil
	})
	return op, v, err
}

func (f *fakeDaemon) DeleteImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	op, _, err := f.actImage(ctx, c, id, "image-delete", daemon.ImageDeletePending, daemon.ImageActive, daemon.ImagePending)
	return op, err
}

func (f *fakeDaemon) RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	_, v, err := f.actImage(ctx, c, id, "", daemon.ImageDeletePending, daemon.ImageActive, daemon.ImagePending)
	return v, err
}

func (f *fakeDaemon) RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	_, v, err := f.actImage(ctx, c, id, "", daemon.ImageDeletePending, daemon.ImageActive)
	return v, err
}

func (f *fakeDaemon) PurgeImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	op, _, err := f.actImage(ctx, c, id, "image-delete", daemon.ImageDeleted, daemon.ImageDeletePending)
	return op, err
}

func (f *fakeDaemon) ActivateImage(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	_, v, err := f.actImage(ctx, c, id, "", daemon.ImageActive, daemon.ImagePending)
	return v, err
}

func (f *fakeDaemon) VerifyImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	op, _, err := f.actImage(ctx, c, id, "image-verify", daemon.ImageActive, daemon.ImageActive)
	return op, err
}

func (f *fakeDaemon) ImageNameFree(ctx context.Context, c daemon.Caller, name string) error {
	if err := f.enter(ctx, c); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, img := range f.images {
		if img.Name == name {
			return conflict("there is an image of that name")
		}
	}
	return nil
}

func (f *fakeDaemon) ShareCapsule(ctx context.Context, c daemon.Caller, n daemon.NewShare) (daemon.Image, daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.Image{}, daemon.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shares = append(f.shares, n)
	capsule, ok := f.capsules[n.Capsule]
	switch {
	case !ok:
		return daemon.Image{}, daemon.Operation{}, &daemon.Error{Code: daemon.NotFound, Message: "no such capsule"}
	case capsule.State != daemon.Shutdown:
		return daemon.Image{}, daemon.Operation{}, conflict("the capsule is %s", capsule.State)
	}
	img := &fakeImage{awaited: -1, Image: daemon.Image{ID: fmt.Sprintf("image-%d", len(f.images)+1), Name: n.Name, Description: n.Description,
		State: daemon.ImagePending, Visibility: daemon.Private, Owner: c.GUID, SourceCapsule: n.Capsule, CreatedAt: epoch, UpdatedAt: epoch}}
	f.images[img.ID] = img
	return img.Image, f.begin(c, "share", n.Capsule), nil
}

func (f *fakeDaemon) CollectImages(ctx context.Context, c daemon.Caller, dryRun bool) ([]daemon.ImageWaste, error) {
	if err := f.enter(ctx, c); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var waste []daemon.ImageWaste
	for _, id := range slices.Sorted(maps.Keys(f.images)) {
		if img := f.images[id]; img.State == daemon.ImageDeletePending {
			waste = append(waste, daemon.ImageWaste{ID: id, Name: img.Name, Digest: img.Digest, Bytes: img.FileBytes})
			if !dryRun {
				img.State = daemon.ImageDeleted
			}
		}
	}
	return waste, nil
}

func (f *fakeDaemon) CancelOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	op, err := f.Operation(ctx, c, id)
	if err == nil && op.State != daemon.OperationRunning {
		return daemon.Operation{}, conflict("the operation has ended")
	}
	return op, err
}
