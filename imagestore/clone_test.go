package imagestore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// On each kind of file system: the clone has the image's contents, takes writes that nobody else sees, and
// outlives the image.
func TestClone(t *testing.T) {
	raw := rawDisk(t, 1, 8*mib)
	for _, fs := range fileSystems {
		for _, source := range []struct {
			path   string
			format imagestore.Format
		}{{raw, imagestore.Raw}, {qcow2Disk(t, raw), imagestore.Qcow2}} {
			t.Run(fs.kind+"/"+string(source.format), func(t *testing.T) {
				s := open(t, imagestore.Options{Dir: filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")})
				img := add(t, s, source.path)
				a, b := clone(t, s, keyA, img.Digest), clone(t, s, keyB, img.Digest)
				wantFile(t, a, fs.method, source.format)
				for _, f := range []imagestore.File{a, b} {
					same(t, f, source.path, string(source.format))
				}
				run(t, "qemu-io", "-f", string(a.Format), "-c", "write -P 0xab 1M 1M", a.Path)
				same(t, b, source.path, string(source.format))
				grown(t, s, img, source.path)
				if err := s.Remove(t.Context(), img.Digest); err != nil {
					t.Fatal(err)
				}
				same(t, b, source.path, string(source.format))
				run(t, "qemu-io", "-f", string(a.Format), "-c", "read -P 0xab 1M 1M", a.Path)
				if err := s.Erase(t.Context(), keyA); err != nil {
					t.Fatal(err)
				}
				same(t, b, source.path, string(source.format))
				again := clone(t, s, keyB, img.Digest) // finished long ago, so the image is not asked for
				if diff := cmp.Diff(b, again); diff != "" {
					t.Error(diff)
				}
				if _, err := s.Clone(t.Context(), keyA, img.Digest, 0); !errors.Is(err, imagestore.ErrNotFound) {
					t.Error("clone of a removed image:", err)
				}
				if _, err := os.Lstat(filepath.Dir(a.Path)); !errors.Is(err, os.ErrNotExist) {
					t.Error("a clone that could not be made left its directory:", err)
				}
			})
		}
	}
}

// grown checks a clone that is bigger than its image: it begins as the image does, ends in zeros, and takes writes there.
func grown(t *testing.T, s *imagestore.Store, img imagestore.Image, source string) {
	t.Helper()
	f, err := s.Clone(t.Context(), key(77), img.Digest, 21*mib+1)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "compare", "-f", string(f.Format), "-F", string(img.Format), f.Path, source)
	for _, command := range []string{"read -P 0 8M 13M", "read -P 0 21M 512", "write -P 0xcd 20M 1M", "read -P 0xcd 20M 1M"} {
		run(t, "qemu-io", "-f", string(f.Format), "-c", command, f.Path)
	}
	if out := run(t, "qemu-img", "info", "-f", string(f.Format), f.Path); !strings.Contains(out, fmt.Sprintf("(%d bytes)", 21*mib+512)) {
		t.Errorf("a clone that should be 21 MiB and a sector long: %s", out)
	}
	if f.Format == imagestore.Qcow2 {
		run(t, "qemu-img", "check", f.Path)
	}
	for _, size := range []int64{-1, 1 << 62} {
		if _, err := s.Clone(t.Context(), key(78), img.Digest, size); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("a clone of %d bytes: %v", size, err)
		}
	}
}

// wantFile checks what a clone says of itself, its modes, and that QEMU reads the overlay's header as meant.
func wantFile(t *testing.T, f imagestore.File, method string, source imagestore.Format) {
	t.Helper()
	dir := filepath.Dir(f.Path)
	want := imagestore.File{Path: filepath.Join(dir, "disk."+string(source)), Format: source, Method: "reflink"}
	if method == "overlay" {
		want = imagestore.File{
			Path: filepath.Join(dir, "disk.qcow2"), Format: imagestore.Qcow2, Method: "overlay",
			Base: filepath.Join(dir, "base-disk."+string(source)), BaseFormat: source,
		}
		if got, want := mode(t, f.Base), fmt.Sprintf("440 0:%d", readerGID); got != want {
			t.Errorf("pin has mode %s, want %s", got, want)
		}
		info := run(t, "qemu-img", "info", f.Path)
		for _, line := range []string{
			"file format: qcow2", "virtual size: 8 MiB (8388608 bytes)", "backing file: base-disk." + string(source),
			"backing file format: " + string(source), "compat: 1.1", "corrupt: false",
		} {
			if !strings.Contains(info, line) {
				t.Errorf("no %q in\n%s", line, info)
			}
		}
		if out := run(t, "qemu-img", "check", f.Path); !strings.Contains(out, "No errors were found") {
			t.Error(out)
		}
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	if got, want := mode(t, dir), fmt.Sprintf("710 0:%d", readerGID); got != want {
		t.Errorf("directory has mode %s, want %s", got, want)
	}
	if got, want := mode(t, f.Path), "600 0:0"; got != want {
		t.Errorf("disk has mode %s, want %s", got, want)
	}
}

// QEMU's group can read what a domain needs by way of the clone's directory; another user finds nothing.
func TestCloneAccess(t *testing.T) {
	dir := testhost.LoopFS(t, "ext4", 64*mib)
	for at := dir; at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state")})
	img := add(t, s, rawDisk(t, 1, mib))
	f := clone(t, s, keyA, img.Digest)
	image := filepath.Join(dir, "state", "images", strings.TrimPrefix(string(img.Digest), "sha256:")+".raw")
	for _, tt := range []struct {
		gid  int
		path string
		ok   bool
	}{
		{readerGID, f.Base, true}, {readerGID, f.Path, false}, {readerGID, image, false},
		{65534, f.Base, false}, {65534, f.Path, false}, {65534, image, false},
	} {
		argv := []string{"setpriv", "--reuid=65534", fmt.Sprintf("--regid=%d", tt.gid), "--clear-groups", "head", "-c1", tt.path}
		err := command(t, argv...).Run()
		if (err == nil) != tt.ok {
			t.Errorf("group %d reads %s: %v", tt.gid, tt.path, err)
		}
	}
}

// The L1 table grows with the disk; QEMU must agree with ours up to the largest.
func TestCloneSizes(t *testing.T) {
	dir := testhost.LoopFS(t, "xfs", 320*mib)
	for _, size := range []int64{mib, 512*mib - 65536, 512 * mib, 512*mib + 65536, 100 * gib, 2048 * gib} {
		base := filepath.Join(dir, "base.qcow2")
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, fmt.Sprint(size))
		state := t.TempDir() // not XFS: an overlay
		s := open(t, imagestore.Options{Dir: state})
		f := clone(t, s, keyA, add(t, s, base).Digest)
		end := size - 4096
		run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 7 %d 4096", end), "-c", fmt.Sprintf("read -P 7 %d 4096", end), f.Path)
		if out := run(t, "qemu-img", "check", f.Path); !strings.Contains(out, "No errors were found") {
			t.Error(size, out)
		}
		if out := run(t, "qemu-img", "info", f.Path); !strings.Contains(out, fmt.Sprintf("(%d bytes)", size)) {
			t.Error(size, out)
		}
	}
}

func TestCloneHalfMade(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			dir := filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")
			s := open(t, imagestore.Options{Dir: dir})
			source := rawDisk(t, 1, mib)
			img := add(t, s, source)
			// What a kill in the middle leaves: a pin, of another image even, and an unfinished disk.
			at := filepath.Join(dir, "capsules", keyA)
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"base-disk.qcow2", ".new-disk"} {
				if err := os.WriteFile(filepath.Join(at, name), noise(9, 4096), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f := clone(t, s, keyA, img.Digest)
			if f.Method != fs.method {
				t.Errorf("method %s", f.Method)
			}
			same(t, f, source, "raw")
			files, err := s.Files(t.Context(), keyA)
			if diff := cmp.Diff(map[string]imagestore.File{"disk": f}, files); err != nil || diff != "" {
				t.Error(err, diff)
			}
			if names := tree(t, at); slices.Contains(names, ".new-disk") || slices.Contains(names, "base-disk.qcow2") {
				t.Error(names)
			}
		})
	}
}

func TestCloneAtOnce(t *testing.T) {
	s, _ := newStore(t)
	source := rawDisk(t, 1, mib)
	img := add(t, s, source)
	var wg sync.WaitGroup
	for i := range 40 { // ten keys, each four times
		wg.Go(func() {
			if _, err := s.Clone(t.Context(), key(i%10), img.Digest, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 10 {
		same(t, clone(t, s, key(i), img.Digest), source, "raw")
	}
}

func TestCloneDiskFull(t *testing.T) {
	for _, fs := range fileSystems[:2] { // btrfs keeps room for metadata apart: thousands of clones still fit
		t.Run(fs.kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, fs.kind, fs.bytes)
			s := open(t, imagestore.Options{Dir: filepath.Join(dir, "state")})
			img := add(t, s, rawDisk(t, 1, mib))
			before := tree(t, dir)
			filler := filepath.Join(dir, "filler")
			fill(t, filler)
			var err error
			for i := 0; err == nil && i < 20_000; i++ { // a full disk has room for some small files yet
				_, err = s.Clone(t.Context(), key(i), img.Digest, 0)
			}
			if !errors.Is(err, imagestore.ErrExhausted) {
				t.Fatal(err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sweep(t.Context(), map[imagestore.Digest]bool{img.Digest: true}, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReserve(t *testing.T) {
	dir := testhost.LoopFS(t, "ext4", 64*mib)
	s := open(t, imagestore.Options{Dir: dir})
	img := add(t, s, rawDisk(t, 1, mib))
	free, err := s.FreeBytes(t.Context(), 0)
	if err != nil || free < 16*mib || free > 64*mib {
		t.Fatal(free, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, imagestore.Options{Dir: dir, ReserveBytes: free + mib})
	for name, err := range map[string]error{
		"clone":   second(s.Clone(t.Context(), keyA, img.Digest, 0)),
		"import":  second(s.Import(t.Context(), rawDisk(t, 2, mib), nil)),
		"prepare": s.Prepare(t.Context(), []imagestore.Volume{secureVolume}),
	} {
		if !errors.Is(err, imagestore.ErrExhausted) {
			t.Error(name, err)
		}
	}
	if err := s.Erase(t.Context(), keyA); err != nil { // giving back is never refused
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestKeys(t *testing.T) {
	s, _ := newStore(t)
	img := add(t, s, rawDisk(t, 1, mib))
	for _, bad := range []string{
		"", ".", "..", "/", "../images", keyA + "/..", strings.ToUpper(keyA), keyA + "\n", "{" + keyA + "}",
		"urn:uuid:" + keyA, strings.ReplaceAll(keyA, "-", ""), keyA[1:], strings.Repeat("a", 1<<20),
	} {
		for name, err := range map[string]error{
			"clone":  second(s.Clone(t.Context(), bad, img.Digest, 0)),
			"volume": second(s.CloneVolume(t.Context(), bad, secureVolume)),
			"files":  second(s.Files(t.Context(), bad)),
			"erase":  s.Erase(t.Context(), bad),
		} {
			if !errors.Is(err, imagestore.ErrInvalid) || len(err.Error()) > 1000 {
				t.Errorf("%s %.50q: %.200v", name, bad, err)
			}
		}
		if path := s.SerialLog(bad); path != "" {
			t.Errorf("%.50q: %q", bad, path)
		}
	}
	if _, err := s.Files(t.Context(), keyA); !errors.Is(err, imagestore.ErrNotFound) {
		t.Error(err)
	}
	if got, err := s.Digests(t.Context()); err != nil || len(got) != 1 || got[0] != img.Digest {
		t.Errorf("%v, %v", got, err)
	}
	f := clone(t, s, keyA, img.Digest)
	if got, want := s.SerialLog(keyA), filepath.Join(filepath.Dir(f.Path), "serial.log"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestOpenDiskFull opens a store on a disk without room, as a restart would: it can be read and emptied, and clones
// again, as the file system can, when there is room.
func TestOpenDiskFull(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			dir := testhost.LoopFS(t, fs.kind, fs.bytes)
			opt := imagestore.Options{Dir: filepath.Join(dir, "state")}
			s := open(t, opt)
			img := add(t, s, rawDisk(t, 1, mib))
			clone(t, s, keyA, img.Digest)
			before := tree(t, opt.Dir)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			filler := filepath.Join(dir, "filler")
			fill(t, filler)
			s = open(t, opt)
			if diff := cmp.Diff(before, tree(t, opt.Dir)); diff != "" {
				t.Error("opened on a full disk:", diff)
			}
			if err := s.Erase(t.Context(), keyA); err != nil {
				t.Error(err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			unix.Sync() // btrfs gives space back with its next transaction
			for _, k := range []string{keyA, keyB} {
				if f := clone(t, s, k, img.Digest); f.Method != fs.method {
					t.Errorf("cloned by %s, want %s", f.Method, fs.method)
				}
			}
		})
	}
}
