package imagestore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// flatten makes an image that must be possible.
func flatten(t testing.TB, s *imagestore.Store, key string, c imagestore.Clean) imagestore.Image {
	t.Helper()
	img, err := s.Flatten(t.Context(), key, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// qemuIO changes a disk as a guest would.
func qemuIO(t testing.TB, f imagestore.File, commands ...string) {
	t.Helper()
	argv := []string{"qemu-io", "-f", string(f.Format)}
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	run(t, append(argv, f.Path)...)
}

// asFile is how an image is compared with others.
func asFile(dir string, img imagestore.Image) imagestore.File {
	return imagestore.File{Path: imagePath(dir, img), Format: img.Format}
}

// The image reads as the disk did, whatever the disk is made of, and stands alone when everything else is gone.
func TestFlatten(t *testing.T) {
	for _, f := range fileSystems {
		for _, source := range []string{"raw", "qcow2"} {
			t.Run(f.kind+" "+source, func(t *testing.T) {
				dir := filepath.Join(testhost.LoopFS(t, f.kind, f.bytes), "state")
				s := open(t, imagestore.Options{Dir: dir})
				path := rawDisk(t, 1, 64*mib)
				if source == "qcow2" {
					path = qcow2Disk(t, path)
				}
				first := add(t, s, path)
				disk := clone(t, s, keyA, first.Digest)
				qemuIO(t, disk, "write -P 7 8M 1M", "write -z 4k 4k")
				before, err := s.Stamp(t.Context(), keyA)
				if err != nil {
					t.Fatal(err)
				}
				var steps []string
				img, err := s.Flatten(t.Context(), keyA, imagestore.Clean{}, func(step string, done, total int64) {
					if len(steps) == 0 || steps[len(steps)-1] != step {
						steps = append(steps, step)
					}
					if done > total {
						t.Error(step, done, total)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Log(steps, img)
				same(t, disk, imagePath(dir, img), string(img.Format))
				if after, err := s.Stamp(t.Context(), keyA); err != nil || after != before {
					t.Error("the disk changed:", before, after, err)
				}
				want := imagestore.Qcow2
				if f.method == "reflink" && source == "raw" {
					want = imagestore.Raw
				}
				if img.Format != want || img.VirtualBytes != 64*mib || img.Digest != digestOf(t, imagePath(dir, img)) || img.Digest == first.Digest {
					t.Error(img)
				}
				if got := mode(t, imagePath(dir, img)); got != fmt.Sprintf("440 0:%d", readerGID) {
					t.Error("mode", got)
				}
				if disk.Base != "" {
					if got := mode(t, disk.Base); got != fmt.Sprintf("440 0:%d", readerGID) {
						t.Error("mode of the backing file", got)
					}
				}
				if again := flatten(t, s, keyA, imagestore.Clean{}); again != img {
					t.Error("the same disk is another image:", again)
				}
				copied := filepath.Join(t.TempDir(), "before")
				run(t, "qemu-img", "convert", "-O", "raw", "-f", string(disk.Format), disk.Path, copied)
				if err := errors.Join(s.Erase(t.Context(), keyA), s.Remove(t.Context(), first.Digest)); err != nil {
					t.Fatal(err)
				}
				same(t, asFile(dir, img), copied, "raw")
				same(t, clone(t, s, keyB, img.Digest), copied, "raw")
				if err := errors.Join(s.Erase(t.Context(), keyB), s.Remove(t.Context(), img.Digest)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestFlattenRefuses(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	img := add(t, s, rawDisk(t, 1, 8*mib))
	disk := clone(t, s, keyA, img.Digest)
	before := tree(t, dir)
	wants := func(key string, c imagestore.Clean, want error) {
		t.Helper()
		if got, err := s.Flatten(ctx, key, c, nil); !errors.Is(err, want) {
			t.Errorf("got %v %v, want %v", got, err, want)
		}
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Error(diff)
		}
	}
	wants("../x", imagestore.Clean{}, imagestore.ErrInvalid)
	wants(keyB, imagestore.Clean{}, imagestore.ErrNotFound)
	for _, pattern := range []string{"", "/", "*", "/*", "a//b", "/etc/../x", "../x", "a/", "[", "/etc/[a", "./a", "?"} {
		wants(keyA, imagestore.Clean{Remove: []string{pattern}}, imagestore.ErrInvalid)
		wants(keyA, imagestore.Clean{Empty: []string{pattern}}, imagestore.ErrInvalid)
	}
	held, err := os.Open(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	wants(keyA, imagestore.Clean{}, imagestore.ErrInUse)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PrepareCleanPoint(ctx, keyA, 0); err != nil {
		t.Fatal(err)
	}
	before = tree(t, dir)
	wants(keyA, imagestore.Clean{}, imagestore.ErrInUse)
	if err := s.DropOverlay(ctx, keyA); err != nil {
		t.Fatal(err)
	}
	before = tree(t, dir)
	qemuIO(t, disk, "write -z 0 4k") // there go the partitions
	_, err = s.Flatten(ctx, keyA, imagestore.Clean{Remove: []string{"x"}}, nil)
	wantRefusal(t, err, "boot signature")
	// A guest that writes the header of a foreign format into its disk is not believed.
	qemuIO(t, disk, "write -P 0x51 0 1", "write -P 0x46 1 1", "write -P 0x49 2 1", "write -P 0xfb 3 1", "write -P 3 7 1")
	flatten(t, s, keyA, imagestore.Clean{})
	for _, step := range []string{"copy", "convert", "digest", "inspect"} {
		ended, cancel := context.WithCancel(ctx)
		_, err := s.Flatten(ended, keyA, imagestore.Clean{}, func(at string, _, _ int64) {
			if at == step {
				cancel()
			}
		})
		if step == "convert" && err == nil { // too short to be seen converting
			continue
		}
		if !errors.Is(err, context.Canceled) && step != "inspect" { // the same image is not inspected twice
			t.Error(step, err)
		}
		if got := mode(t, disk.Base); !strings.HasPrefix(got, "440 ") {
			t.Error(step, got)
		}
	}
	if names := tree(t, filepath.Join(dir, "images", "incoming")); len(names) > 0 {
		t.Error(names)
	}
}

// A guest that fills the disk of the host while its own is flattened costs the flattening.
func TestFlattenDiskFull(t *testing.T) {
	dir := testhost.LoopFS(t, "ext4", 160*mib)
	state := filepath.Join(dir, "state")
	s := open(t, imagestore.Options{Dir: state, ReserveBytes: 24 * mib})
	img := add(t, s, write(t, 64*mib, map[int64][]byte{0: mbr(0x83, 1000), mib: noise(1, 50*mib)}))
	clone(t, s, keyA, img.Digest)
	before := tree(t, state)
	if _, err := s.Flatten(t.Context(), keyA, imagestore.Clean{}, nil); err != nil {
		t.Error("there is room:", err)
	}
	if _, err := s.Sweep(t.Context(), map[imagestore.Digest]bool{img.Digest: true}, map[string]bool{keyA: true}); err != nil {
		t.Fatal(err)
	}
	run(t, "fallocate", "-l", "50M", filepath.Join(dir, "filler"))
	if got, err := s.Flatten(t.Context(), keyA, imagestore.Clean{}, nil); !errors.Is(err, imagestore.ErrExhausted) {
		t.Error(got, err)
	}
	if diff := cmp.Diff(before, tree(t, state)); diff != "" {
		t.Error(diff)
	}
}
