package imagestore_test

import (
	gocmp "cmp"
	"errors"
	"fmt"
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

func TestVolumes(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			dir := filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")
			s := open(t, imagestore.Options{Dir: dir})
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if err := s.Prepare(t.Context(), []imagestore.Volume{secureVolume, releaseSpool}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			want := []string{"release_spool-33554432-0.raw", "secure_volume-67108864-8192.raw"}
			if diff := cmp.Diff(want, tree(t, filepath.Join(dir, "templates"))); diff != "" {
				t.Fatal(diff)
			}
			files := map[string]imagestore.File{}
			for _, v := range []imagestore.Volume{secureVolume, releaseSpool} {
				f, err := s.CloneVolume(t.Context(), keyA, v)
				if err != nil {
					t.Fatal(err)
				}
				if f.Method != fs.method || (f.Base != "") != (f.Method == "overlay") {
					t.Errorf("%+v", f)
				}
				files[v.Name] = f
				wantExt4(t, f, v)
			}
			again, err := s.CloneVolume(t.Context(), keyA, secureVolume)
			if diff := cmp.Diff(files["secure_volume"], again); err != nil || diff != "" {
				t.Error(err, diff)
			}
			got, err := s.Files(t.Context(), keyA)
			if diff := cmp.Diff(files, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
			other := secureVolume
			other.Bytes *= 2
			if _, err := s.CloneVolume(t.Context(), keyB, other); !errors.Is(err, imagestore.ErrNotFound) {
				t.Error(err)
			}
		})
	}
}

// wantExt4 has e2fsprogs look at the volume as a guest would see it.
func wantExt4(t *testing.T, f imagestore.File, v imagestore.Volume) {
	t.Helper()
	flat := filepath.Join(t.TempDir(), "flat")
	run(t, "qemu-img", "convert", "-f", string(f.Format), "-O", "raw", f.Path, flat)
	run(t, "e2fsck", "-fn", flat)
	about := run(t, "dumpe2fs", "-h", flat)
	inodes := v.Bytes / int64(gocmp.Or(v.BytesPerInode, 16384))
	for _, line := range []string{
		"Filesystem volume name:   " + v.Name + "\n", fmt.Sprintf("Block count:              %d\n", v.Bytes/4096),
		"Reserved block count:     0\n", "Block size:               4096\n",
		fmt.Sprintf("Inode count:              %d\n", inodes),
	} {
		if !strings.Contains(about, line) {
			t.Errorf("no %q in\n%s", line, about)
		}
	}
	if owner := run(t, "debugfs", "-R", "stat /", flat); !strings.Contains(owner, "User:     0   Group:     0") {
		t.Error(owner)
	}
}

// A volume of the size that capsules get takes next to nothing, here and after a guest mounted it.
func TestVolumeIsSparse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, imagestore.Options{Dir: dir})
	v := imagestore.Volume{Name: "secure_volume", Bytes: 10 * gib, BytesPerInode: 8192}
	if err := s.Prepare(t.Context(), []imagestore.Volume{v}); err != nil {
		t.Fatal(err)
	}
	template := filepath.Join(dir, "templates", tree(t, filepath.Join(dir, "templates"))[0])
	allocated := func(path string) int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if n := allocated(template); n > 16*mib {
		t.Errorf("template takes %d bytes", n)
	}
	about := run(t, "dumpe2fs", template)
	if n := strings.Count(about, "ITABLE_ZEROED"); n == 0 || n != strings.Count(about, ": (Blocks ") {
		t.Errorf("%d groups have their inode tables marked as zero: the guest would write the rest", n)
	}
}

func TestPrepareHalfMade(t *testing.T) {
	s, dir := newStore(t)
	partial := filepath.Join(dir, "templates", ".new-secure_volume-67108864-8192.raw")
	if err := os.WriteFile(partial, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Prepare(t.Context(), []imagestore.Volume{secureVolume}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.CloneVolume(t.Context(), keyA, secureVolume)
	if err != nil {
		t.Fatal(err)
	}
	wantExt4(t, f, secureVolume)
	if diff := cmp.Diff([]string{"secure_volume-67108864-8192.raw"}, tree(t, filepath.Join(dir, "templates"))); diff != "" {
		t.Error(diff)
	}
}

func TestPrepareRefuses(t *testing.T) {
	s, dir := newStore(t)
	for _, v := range []imagestore.Volume{
		{Name: "", Bytes: 64 * mib}, {Name: "disk", Bytes: 64 * mib}, {Name: "../x", Bytes: 64 * mib},
		{Name: "-L", Bytes: 64 * mib}, {Name: "a.raw", Bytes: 64 * mib}, {Name: "seventeen_letters", Bytes: 64 * mib},
		{Name: "v", Bytes: 0}, {Name: "v", Bytes: -4096}, {Name: "v", Bytes: 64*mib + 1}, {Name: "v", Bytes: 1 << 60},
		{Name: "v", Bytes: 64 * mib, BytesPerInode: -1}, {Name: "v", Bytes: 64 * mib, BytesPerInode: 1},
	} {
		if err := s.Prepare(t.Context(), []imagestore.Volume{v}); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("%+v: %v", v, err)
		}
		if _, err := s.CloneVolume(t.Context(), keyA, v); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("%+v: %v", v, err)
		}
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}
