package imagestore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/imagestore"
)

func TestImportFrom(t *testing.T) {
	s, dir := newStore(t)
	path := rawDisk(t, 1, 64*mib)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var steps []string
	img, err := s.ImportFrom(t.Context(), imagestore.Source{Reader: f, Bytes: 64 * mib, SHA256: digestOf(t, path)}, func(step string, done, total int64) {
		if done > total {
			t.Error(step, done, total)
		}
		if len(steps) == 0 || steps[len(steps)-1] != step {
			steps = append(steps, step)
		}
	})
	if err != nil || !equal(t, path, imagePath(dir, img)) {
		t.Fatal(img, err)
	}
	if diff := cmp.Diff([]string{"copy", "inspect"}, steps); diff != "" {
		t.Error(diff)
	}
	if used := strings.Fields(run(t, "du", "-k", imagePath(dir, img)))[0]; len(used) > 4 { // under 10 MB
		t.Error("no holes:", used, "KiB")
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	short := func() io.Reader { return io.LimitReader(bytes.NewReader(read(t, path)), mib) }
	for _, tt := range []struct {
		name string
		src  imagestore.Source
		want error
	}{
		{"fewer than announced", imagestore.Source{Reader: short(), Bytes: 64 * mib}, imagestore.ErrConflict},
		{"more than announced", imagestore.Source{Reader: short(), Bytes: mib - 1}, imagestore.ErrInvalid},
		{"more than is taken", imagestore.Source{Reader: short(), Bytes: 2 << 40}, imagestore.ErrInvalid},
		{"another digest", imagestore.Source{Reader: short(), Bytes: mib, SHA256: digestOf(t, path)}, imagestore.ErrDigest},
		{"half a disk", imagestore.Source{Reader: short(), Bytes: -1}, imagestore.ErrInvalid},
		{"nothing ever", imagestore.Source{Reader: readerFunc(func([]byte) (int, error) { return 0, nil }), Bytes: -1}, io.ErrNoProgress},
		{"cut", imagestore.Source{Reader: io.MultiReader(short(), iotest.ErrReader(io.ErrUnexpectedEOF)), Bytes: -1}, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if img, err := s.ImportFrom(t.Context(), tt.src, nil); !errors.Is(err, tt.want) {
				t.Error(img, err)
			}
		})
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// One image is verified at a time, and who waits can leave.
func TestVerifyInTurn(t *testing.T) {
	s, _ := newStore(t)
	img := add(t, s, rawDisk(t, 1, mib))
	begun, on := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		once := sync.OnceFunc(func() { close(begun); <-on })
		first <- s.Verify(context.WithoutCancel(t.Context()), img.Digest, func(string, int64, int64) { once() })
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() {
		second <- s.Verify(ctx, img.Digest, func(string, int64, int64) { t.Error("two are verified at once") })
	}()
	time.Sleep(20 * time.Millisecond) // for the case that it does not wait
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(on)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := s.Verify(t.Context(), img.Digest, nil); err != nil {
		t.Error("the next:", err)
	}
}

func TestOpenAndVerify(t *testing.T) {
	s, dir := newStore(t)
	path := rawDisk(t, 1, 2*mib)
	img := add(t, s, path)
	f, same, err := s.Open(t.Context(), img.Digest)
	if err != nil || same != img {
		t.Fatal(same, err)
	}
	defer f.Close()
	if err := s.Verify(t.Context(), img.Digest, nil); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	if err := s.Verify(ended, img.Digest, func(string, int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	patch(t, imagePath(dir, img), 5000, []byte{^read(t, path)[5000]})
	if err := s.Verify(t.Context(), img.Digest, nil); !errors.Is(err, imagestore.ErrCorrupt) {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	at := make([]byte, 100)
	if _, err := f.ReadAt(at, 4096); err != nil || !bytes.Equal(at, read(t, path)[4096:4196]) {
		t.Error("cannot be read to its end once removed:", err)
	}
	for _, d := range []imagestore.Digest{img.Digest, "sha256:" + imagestore.Digest(strings.Repeat("0", 64))} {
		_, _, err := s.Open(t.Context(), d)
		if !errors.Is(err, imagestore.ErrNotFound) || !errors.Is(s.Verify(t.Context(), d, nil), imagestore.ErrNotFound) {
			t.Error(d, err)
		}
	}
	link(t, path, imagePath(dir, img))
	if _, _, err := s.Open(t.Context(), img.Digest); err == nil {
		t.Error("opened by way of a link")
	}
}
