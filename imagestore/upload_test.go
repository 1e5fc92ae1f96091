package imagestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// begin begins an upload that must be possible.
func begin(t testing.TB, s *imagestore.Store, size int64, sum imagestore.Digest) imagestore.UploadID {
	t.Helper()
	id, err := s.BeginUpload(t.Context(), size, sum)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// put appends what must be accepted.
func put(t testing.TB, s *imagestore.Store, id imagestore.UploadID, offset int64, b []byte) {
	t.Helper()
	n, err := s.AppendUpload(t.Context(), id, offset, bytes.NewReader(b))
	if want := offset + int64(len(b)); err != nil || n != want {
		t.Fatalf("%d bytes there, want %d: %v", n, want, err)
	}
}

func imagePath(dir string, img imagestore.Image) string {
	return filepath.Join(dir, "images", strings.TrimPrefix(string(img.Digest), "sha256:")+"."+string(img.Format))
}

// An upload in uneven pieces, the first half of them by a process that is gone, becomes the image that a file would.
func TestUpload(t *testing.T) {
	path := rawDisk(t, 1, 8*mib)
	whole := read(t, path)
	for _, tt := range []struct {
		name string
		size int64
		sum  imagestore.Digest
	}{{"announced", 8 * mib, digestOf(t, path)}, {"unannounced", -1, ""}} {
		t.Run(tt.name, func(t *testing.T) {
			s, dir := newStore(t)
			id := begin(t, s, tt.size, tt.sum)
			put(t, s, id, 0, whole[:100_001])
			put(t, s, id, 100_001, nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, imagestore.Options{Dir: dir})
			if removed, err := s.Sweep(t.Context(), nil, nil); len(removed) > 0 || err != nil {
				t.Fatal(removed, err)
			}
			all, err := s.Uploads(t.Context())
			want := imagestore.Upload{ID: id, Bytes: tt.size, SHA256: tt.sum, Received: 100_001}
			if err != nil || len(all) != 1 || time.Since(all[0].Touched) > time.Hour {
				t.Fatal(all, err)
			}
			all[0].Touched = time.Time{}
			if diff := cmp.Diff(want, all[0]); diff != "" {
				t.Error(diff)
			}
			put(t, s, id, 100_001, whole[100_001:])
			for range 2 { // the second time after a caller died before it could write the first answer down
				img, err := s.FinishUpload(t.Context(), id, nil)
				if err != nil || img.Digest != digestOf(t, path) || img.FileBytes != 8*mib || img.Format != imagestore.Raw {
					t.Fatal(img, err)
				}
				if !equal(t, path, imagePath(dir, img)) {
					t.Error("other bytes")
				}
				if got := mode(t, imagePath(dir, img)); got != fmt.Sprintf("440 0:%d", readerGID) {
					t.Error("mode", got)
				}
			}
			if _, err := s.AppendUpload(t.Context(), id, 8*mib, strings.NewReader("more")); !errors.Is(err, imagestore.ErrConflict) {
				t.Error("bytes after the end:", err)
			}
			for range 2 {
				if err := s.AbortUpload(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			img, err := s.Stat(t.Context(), digestOf(t, path))
			if err != nil || !equal(t, path, imagePath(dir, img)) {
				t.Error("the image went with its upload", err)
			}
			if _, err := s.FinishUpload(t.Context(), id, nil); !errors.Is(err, imagestore.ErrNotFound) {
				t.Error(err)
			}
			if err := s.Remove(t.Context(), img.Digest); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// One that died after the image was placed, and whose records do not know it, finishes again after the sweep.
func TestUploadFinishedUnseen(t *testing.T) {
	s, dir := newStore(t)
	path := rawDisk(t, 1, mib)
	id := begin(t, s, -1, "")
	put(t, s, id, 0, read(t, path))
	if _, err := s.FinishUpload(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, imagestore.Options{Dir: dir})
	if removed, err := s.Sweep(t.Context(), nil, nil); len(removed) != 1 || err != nil {
		t.Fatal(removed, err)
	}
	img, err := s.FinishUpload(t.Context(), id, nil)
	if err != nil || !equal(t, path, imagePath(dir, img)) {
		t.Error(img, err)
	}
}

func TestUploadRefuses(t *testing.T) {
	s, dir := newStore(t)
	whole := read(t, rawDisk(t, 1, mib))
	other := digestOf(t, rawDisk(t, 2, mib))
	finish := func(t *testing.T, size int64, sum imagestore.Digest, b []byte) error {
		id := begin(t, s, size, sum)
		put(t, s, id, 0, b)
		_, err := s.FinishUpload(t.Context(), id, nil)
		return err
	}
	t.Run("another digest", func(t *testing.T) {
		err := finish(t, -1, other, whole)
		wantRefusal(t, err, string(other))
		if !errors.Is(err, imagestore.ErrDigest) {
			t.Error(err)
		}
	})
	t.Run("no image", func(t *testing.T) { wantRefusal(t, finish(t, -1, "", noise(1, 4096)), "no disk") })
	t.Run("compressed", func(t *testing.T) { wantRefusal(t, finish(t, -1, "", []byte("\x1f\x8b\x08\x00")), "decompress") })
	t.Run("empty", func(t *testing.T) { wantRefusal(t, finish(t, -1, "", nil), "empty") })
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []struct {
		size int64
		sum  imagestore.Digest
	}{{-2, ""}, {0, ""}, {1 << 41, ""}, {1, "sha256:00"}, {1, "sha256:../../../x"}} {
		if id, err := s.BeginUpload(t.Context(), bad.size, bad.sum); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("%+v: %v %v", bad, id, err)
		}
	}
	id := begin(t, s, mib, "")
	put(t, s, id, 0, whole[:1000])
	wantOffset := func(err error, want int64) {
		t.Helper()
		at, ok := errors.AsType[*imagestore.OffsetError](err)
		if !ok || at.Received != want || !errors.Is(err, imagestore.ErrConflict) {
			t.Errorf("got %v, want offset %d", err, want)
		}
	}
	for _, offset := range []int64{-1, 0, 999, 1001, 1 << 62} {
		n, err := s.AppendUpload(t.Context(), id, offset, bytes.NewReader(whole))
		if wantOffset(err, 1000); n != 1000 {
			t.Error(n)
		}
	}
	n, err := s.AppendUpload(t.Context(), id, 1000, bytes.NewReader(append(whole[1000:], 0)))
	if wantRefusal(t, err, "more than 1048576 bytes"); n != 1000 {
		t.Error("too much of it is there:", n)
	}
	_, err = s.FinishUpload(t.Context(), id, nil)
	wantOffset(err, 1000) // and it can be gone on with
	put(t, s, id, 1000, whole[1000:])
	if _, err := s.FinishUpload(t.Context(), id, nil); err != nil {
		t.Error(err)
	}
	for _, strange := range []imagestore.UploadID{"", ".", "..", "../../x", id + "x", id[1:], imagestore.UploadID(strings.ToLower(string(id)))} {
		if _, err := s.AppendUpload(t.Context(), strange, 0, bytes.NewReader(nil)); !errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("%q: %v", strange, err)
		}
	}
}

// What came before an upload was cut is there, and no more than that, whatever cut it.
func TestUploadCut(t *testing.T) {
	path := rawDisk(t, 1, 4*mib)
	whole := read(t, path)
	s, dir := newStore(t)
	id := begin(t, s, 4*mib, digestOf(t, path))
	broken := errors.New("connection reset")
	n, err := s.AppendUpload(t.Context(), id, 0, io.MultiReader(bytes.NewReader(whole[:mib+17]), iotest.ErrReader(broken)))
	if n != mib+17 || !errors.Is(err, broken) {
		t.Fatal(n, err)
	}
	// As a request body ends whose connection is lost: io.ReadFull has the same error for another thing.
	n, err = s.AppendUpload(t.Context(), id, n, io.MultiReader(bytes.NewReader(whole[n:n+5]), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if n != mib+22 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err = s.AppendUpload(ctx, id, n, readerFunc(func(b []byte) (int, error) {
		cancel()
		return copy(b, whole[n:]), nil
	}))
	if n != 2*mib+22 || !errors.Is(err, context.Canceled) {
		t.Fatal(n, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.FinishUpload(ended, id, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	put(t, s, id, n, whole[n:])
	inspecting, cancel := context.WithCancel(t.Context())
	if _, err := s.FinishUpload(inspecting, id, func(string, int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	img, err := s.FinishUpload(t.Context(), id, nil)
	if err != nil || !equal(t, path, imagePath(dir, img)) {
		t.Error(img, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// One caller at a time works on an upload; an abort meanwhile wins, and the sweep keeps away.
func TestUploadTurns(t *testing.T) {
	s, dir := newStore(t)
	id := begin(t, s, -1, "")
	ctx := t.Context()
	aborted := false
	_, err := s.AppendUpload(ctx, id, 0, readerFunc(func(b []byte) (int, error) {
		if aborted {
			return len(b), nil
		}
		if _, err := s.AppendUpload(ctx, id, 0, strings.NewReader("x")); !errors.Is(err, imagestore.ErrInUse) {
			t.Error("appended meanwhile:", err)
		}
		if _, err := s.FinishUpload(ctx, id, nil); !errors.Is(err, imagestore.ErrInUse) {
			t.Error("finished meanwhile:", err)
		}
		past := time.Now().Add(-48 * time.Hour)
		for _, name := range tree(t, filepath.Join(dir, "images", "incoming")) {
			if err := os.Chtimes(filepath.Join(dir, "images", "incoming", name), past, past); err != nil {
				t.Error(err)
			}
		}
		if removed, err := s.Sweep(ctx, nil, nil); len(removed) > 0 || err != nil {
			t.Error(removed, err)
		}
		aborted = true
		return len(b), s.AbortUpload(ctx, id)
	}))
	if !errors.Is(err, imagestore.ErrNotFound) {
		t.Error(err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// The sweep takes uploads that wait too long, those of another boot, and what only looks like one.
func TestUploadSwept(t *testing.T) {
	s, dir := newStore(t)
	old, young := begin(t, s, -1, ""), begin(t, s, 5, "")
	incoming := filepath.Join(dir, "images", "incoming")
	var youngName string
	for _, name := range tree(t, incoming) {
		if strings.Contains(name, string(young)) {
			youngName = name
			continue
		}
		past := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(filepath.Join(incoming, name), past, past); err != nil {
			t.Fatal(err)
		}
	}
	boot := youngName[strings.LastIndex(youngName, ".")+1:]
	planted := []string{"upload.A.any.any." + strings.Repeat("0", 32), "upload.A.any.any", "upload..any.any." + boot, "upload.A.007.any." + boot}
	for _, name := range planted {
		plant(t, filepath.Join(incoming, name))
	}
	link(t, "/etc/passwd", filepath.Join(incoming, "upload.L.any.any."+boot))
	removed, err := s.Sweep(t.Context(), nil, nil)
	if len(removed) != 6 || err != nil {
		t.Error(removed, err)
	}
	if diff := cmp.Diff([]string{youngName}, tree(t, incoming)); diff != "" {
		t.Error(diff)
	}
	if _, err := s.AppendUpload(t.Context(), old, 0, strings.NewReader("x")); !errors.Is(err, imagestore.ErrNotFound) {
		t.Error(err)
	}
}

// A disk that fills while bytes come costs what did not fit, and nothing else.
func TestUploadDiskFull(t *testing.T) {
	dir := testhost.LoopFS(t, "ext4", 96*mib)
	s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state"), ReserveBytes: 8 * mib, MaxImageBytes: gib})
	if _, err := s.BeginUpload(t.Context(), 200*mib, ""); !errors.Is(err, imagestore.ErrExhausted) {
		t.Error(err)
	}
	id := begin(t, s, -1, "")
	n, err := s.AppendUpload(t.Context(), id, 0, bytes.NewReader(noise(1, 128*mib)))
	if !errors.Is(err, imagestore.ErrExhausted) || n <= 0 || n > 88*mib {
		t.Error(n, err)
	}
	if free, err := s.FreeBytes(t.Context(), 0); err != nil || free < 6*mib { // what metadata took of the reserve
		t.Error(free, err)
	}
	if all, err := s.Uploads(t.Context()); err != nil || len(all) != 1 || all[0].Received != n {
		t.Error(all, n, err)
	}
	if err := s.AbortUpload(t.Context(), id); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, filepath.Join(dir, "state"))); diff != "" {
		t.Error(diff)
	}
}
