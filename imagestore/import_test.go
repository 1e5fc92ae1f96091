package imagestore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

func digestOf(t testing.TB, path string) imagestore.Digest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return imagestore.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(b)))
}

func TestImportAccepts(t *testing.T) {
	s, dir := newStore(t)
	raw := rawDisk(t, 1, 8*mib)
	withExtra := func(option string) string { return qcow2Disk(t, raw, option) }
	compressed := filepath.Join(t.TempDir(), "compressed.qcow2")
	run(t, "qemu-img", "convert", "-c", "-O", "qcow2", raw, compressed)
	leaky := qcow2Disk(t, raw)
	patch(t, leaky, func() int64 { st, _ := os.Stat(leaky); return st.Size() + 65535 }(), []byte{0})
	for _, tt := range []struct {
		name, path string
		format     imagestore.Format
		virtual    int64
	}{
		{"raw with MBR", raw, imagestore.Raw, 8 * mib},
		{"raw with GPT", gptDisk(t, 8*mib), imagestore.Raw, 8 * mib},
		{"raw with GPT, enlarged", truncate(t, gptDisk(t, 8*mib), 16*mib), imagestore.Raw, 16 * mib},
		{"qcow2 version 3", qcow2Disk(t, raw), imagestore.Qcow2, 8 * mib},
		{"qcow2 version 2", withExtra("compat=0.10"), imagestore.Qcow2, 8 * mib},
		{"qcow2 with zstd", withExtra("compression_type=zstd"), imagestore.Qcow2, 8 * mib},
		{"qcow2 with extended L2", withExtra("extended_l2=on"), imagestore.Qcow2, 8 * mib},
		{"qcow2 with small clusters", withExtra("cluster_size=512"), imagestore.Qcow2, 8 * mib},
		{"qcow2 with large clusters", withExtra("cluster_size=2M"), imagestore.Qcow2, 8 * mib},
		{"qcow2, compressed", compressed, imagestore.Qcow2, 8 * mib},
		{"qcow2 with a byte past its end", leaky, imagestore.Qcow2, 8 * mib},
		{"test guest, raw", testhost.Guest(t).Raw, imagestore.Raw, 0},
		{"test guest, qcow2", testhost.Guest(t).Qcow2, imagestore.Qcow2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := add(t, s, tt.path)
			st, err := os.Stat(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			if tt.virtual == 0 {
				tt.virtual = img.VirtualBytes
			}
			want := imagestore.Image{Digest: digestOf(t, tt.path), Format: tt.format, FileBytes: st.Size(), VirtualBytes: tt.virtual}
			if diff := cmp.Diff(want, img); diff != "" {
				t.Error(diff)
			}
			again, err := s.Stat(t.Context(), img.Digest)
			if diff := cmp.Diff(img, again); err != nil || diff != "" {
				t.Error(err, diff)
			}
			stored := filepath.Join(dir, "images", strings.TrimPrefix(string(img.Digest), "sha256:")+"."+string(img.Format))
			if got, want := mode(t, stored), fmt.Sprintf("440 0:%d", readerGID); got != want {
				t.Errorf("mode %s, want %s", got, want)
			}
			if !equal(t, stored, tt.path) {
				t.Error("other bytes")
			}
			if err := s.Remove(t.Context(), img.Digest); err != nil {
				t.Error(err)
			}
		})
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestImportKeepsHoles(t *testing.T) {
	s, dir := newStore(t)
	img := add(t, s, rawDisk(t, 1, 2*gib)) // more than a test may write
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "images", strings.TrimPrefix(string(img.Digest), "sha256:")+".raw"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 2*gib || st.Blocks*512 > 2*mib {
		t.Errorf("%d bytes long, %d allocated", st.Size, st.Blocks*512)
	}
}

func TestImportSameBytes(t *testing.T) {
	for _, f := range fileSystems {
		t.Run(f.kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, f.kind, f.bytes)
			s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state")})
			path := rawDisk(t, 7, 8*mib)
			onSameFS := filepath.Join(dir, "source.raw") // can be reflinked
			run(t, "cp", "--sparse=always", path, onSameFS)
			var wg sync.WaitGroup
			images := make([]imagestore.Image, 6)
			for i := range images {
				wg.Go(func() {
					var err error
					if images[i], err = s.Import(t.Context(), []string{path, onSameFS}[i%2], nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, img := range images {
				if diff := cmp.Diff(images[0], img); diff != "" {
					t.Error(diff)
				}
			}
			name := "images/" + strings.TrimPrefix(string(digestOf(t, path)), "sha256:") + ".raw"
			want := []string{"capsules", "images", name, "images/incoming", "templates"}
			if diff := cmp.Diff(want, tree(t, filepath.Join(dir, "state"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestImportProgress(t *testing.T) {
	s, _ := newStore(t)
	var steps []string
	last := int64(-1)
	_, err := s.Import(t.Context(), rawDisk(t, 1, 32*mib), func(step string, done, total int64) {
		if len(steps) == 0 || steps[len(steps)-1] != step {
			steps, last = append(steps, step), -1
		}
		if done <= last || done > total {
			t.Errorf("%s: %d of %d after %d", step, done, total, last)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"copy", "inspect"}, steps); diff != "" {
		t.Error(diff)
	}
}

// Whatever ends an import, nothing of it stays.
func TestImportInterrupted(t *testing.T) {
	for _, f := range fileSystems {
		t.Run(f.kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, f.kind, f.bytes)
			s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state")})
			path := filepath.Join(dir, "source.raw")
			run(t, "cp", rawDisk(t, 3, 32*mib), path)
			t.Run("cancel", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				_, err := s.Import(ctx, path, func(string, int64, int64) { cancel() })
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			t.Run("cancel while inspecting", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				_, err := s.Import(ctx, path, func(step string, _, _ int64) {
					if step == "inspect" {
						cancel()
					}
				})
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			t.Run("source changes", func(t *testing.T) {
				changed := false
				_, err := s.Import(t.Context(), path, func(string, int64, int64) {
					if !changed {
						patch(t, path, 4096, []byte("other"))
						changed = true
					}
				})
				wantRefusal(t, err, "it changed while it was read")
			})
			t.Run("source shrinks", func(t *testing.T) {
				_, err := s.Import(t.Context(), path, func(string, int64, int64) { truncate(t, path, 2*mib) })
				wantRefusal(t, err, "while it was read")
			})
			if diff := cmp.Diff(emptyTree, tree(t, filepath.Join(dir, "state"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestImportDiskFull(t *testing.T) {
	for _, f := range fileSystems {
		t.Run(f.kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, f.kind, f.bytes)
			s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state"), ReserveBytes: 16 * mib})
			size := f.bytes + 16*mib
			large := write(t, size, map[int64][]byte{0: mbr(0x83, size/512-8), mib: noise(1, int(f.bytes))})
			if _, err := s.Import(t.Context(), large, nil); !errors.Is(err, imagestore.ErrExhausted) {
				t.Error("larger than the disk:", err)
			}
			small := write(t, 48*mib, map[int64][]byte{0: mbr(0x83, 48*mib/512-8), mib: noise(2, 40*mib)})
			filler := filepath.Join(dir, "filler")
			_, err := s.Import(t.Context(), small, func(string, int64, int64) {
				if _, err := os.Stat(filler); errors.Is(err, fs.ErrNotExist) {
					fill(t, filler)
				}
			})
			if !errors.Is(err, imagestore.ErrExhausted) {
				t.Error("filled by others meanwhile:", err)
			}
			if diff := cmp.Diff(emptyTree, tree(t, filepath.Join(dir, "state"))); diff != "" {
				t.Error(diff)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			unix.Sync() // btrfs gives space back with its next transaction
			add(t, s, small)
		})
	}
}

// fill writes a file until the file system is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{mib, 64 << 10, 4096, 512} {
		for block := noise(5, n); err == nil; _, err = f.Write(block) {
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	_ = f.Sync() // allocates what was only promised; full is what it should be
}

func TestRemove(t *testing.T) {
	s, dir := newStore(t)
	img := add(t, s, rawDisk(t, 1, mib))
	for range 2 { // the second time it is absent
		if err := s.Remove(t.Context(), img.Digest); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), img.Digest); !errors.Is(err, imagestore.ErrNotFound) {
		t.Error(err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []imagestore.Digest{"", "sha256:", "sha256:../../../../etc/passwd", img.Digest + "0", imagestore.Digest(strings.ToUpper(string(img.Digest)))} {
		if err := s.Remove(t.Context(), bad); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A path through another process's mounts names a capsule's disk by a place that is not the store's.
func TestImportStaysInItsOwnMounts(t *testing.T) {
	s, dir := newStore(t)
	image := add(t, s, rawDisk(t, 1, 8*mib))
	f := clone(t, s, key(1), image.Digest)
	mount := t.TempDir()
	cmd := command(t, "unshare", "--mount", "sh", "-c", `mount --bind "$1" "$2" && echo ready && exec cat`, "sh", dir, mount)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close() // ends cat, and with it the namespace
		_ = cmd.Wait()
	}()
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	disk := f.Path
	if f.Base != "" {
		disk = f.Base // an overlay would be refused for its backing file already
	}
	below, err := filepath.Rel(dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root", mount, below)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err) // the way is there; it is not to be taken
	}
	_, err = s.Import(t.Context(), path, nil)
	if bad, ok := errors.AsType[*imagestore.BadImage](err); !ok || !strings.Contains(bad.Fault, "another process") {
		t.Errorf("importing a capsule's disk through another process's mounts: %v", err)
	}
	if _, err := s.Import(t.Context(), rawDisk(t, 2, 8*mib), nil); err != nil {
		t.Error(err)
	}
}
