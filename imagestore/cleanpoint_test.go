package imagestore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// prepare makes a clean point that must succeed.
func prepare(t testing.TB, s *imagestore.Store, key string) imagestore.CleanPoint {
	t.Helper()
	c, err := s.PrepareCleanPoint(t.Context(), key, mib)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// overlayOf is the overlay as a disk.
func overlayOf(c imagestore.CleanPoint) imagestore.File {
	return imagestore.File{Path: c.Overlay, Format: imagestore.Qcow2}
}

// On each kind of file system, over each kind of disk, also over one that is an overlay itself: the overlay reads as the
// disk, takes all writes, and is gone afterwards with nothing left of it.
func TestCleanPoint(t *testing.T) {
	raw := rawDisk(t, 1, 8*mib)
	for _, fs := range fileSystems {
		for _, source := range []string{raw, qcow2Disk(t, raw)} {
			t.Run(fs.kind+filepath.Ext(source), func(t *testing.T) {
				dir := filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")
				s := open(t, imagestore.Options{Dir: dir})
				img := add(t, s, source)
				empty := tree(t, dir)
				f := clone(t, s, keyA, img.Digest)
				run(t, "qemu-io", "-f", string(f.Format), "-c", "write -P 0xaa 1M 64k", f.Path)
				before := tree(t, dir)

				c := prepare(t, s, keyA)
				wantOverlay(t, c, f)
				same(t, overlayOf(c), f.Path, string(f.Format))
				run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 0xaa 1M 64k", "-c", "write -P 0xbb 1M 64k", "-c", "write -P 0xcc 8388096 512", c.Overlay)
				run(t, "qemu-io", "-r", "-f", string(f.Format), "-c", "read -P 0xaa 1M 64k", f.Path)
				if stamp, err := s.Stamp(t.Context(), keyA); err != nil || stamp != c.Stamp {
					t.Errorf("the disk was written to: %q, now %q, %v", c.Stamp, stamp, err)
				}
				plant(t, c.RAM)
				if got, err := s.CleanPoint(t.Context(), keyA); err != nil || !got.HaveOverlay || !got.HaveRAM {
					t.Errorf("%+v, %v", got, err)
				}
				if files, err := s.Files(t.Context(), keyA); err != nil || len(files) != 1 {
					t.Error("lists", files, err)
				}
				again := prepare(t, s, keyA)
				if diff := cmp.Diff(c, again); diff != "" {
					t.Error(diff)
				}
				same(t, overlayOf(c), f.Path, string(f.Format))

				for range 2 {
					if err := errors.Join(s.DropOverlay(t.Context(), keyA), s.DropRAM(t.Context(), keyA)); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
					t.Error(diff)
				}
				c.HaveOverlay = false
				if got, err := s.CleanPoint(t.Context(), keyA); err != nil || got != c {
					t.Errorf("%+v, %v", got, err)
				}
				plant(t, prepare(t, s, keyA).RAM)
				if err := s.Erase(t.Context(), keyA); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(empty, tree(t, dir)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// wantOverlay has QEMU read the overlay's header and check its tables, and counts the files below it.
func wantOverlay(t *testing.T, c imagestore.CleanPoint, disk imagestore.File) {
	t.Helper()
	dir := filepath.Dir(disk.Path)
	stamp := c.Stamp
	c.Stamp = ""
	want := imagestore.CleanPoint{Disk: disk, Overlay: filepath.Join(dir, "overlay.qcow2"), RAM: filepath.Join(dir, "clean.ram"), HaveOverlay: true}
	if diff := cmp.Diff(want, c); diff != "" || stamp == "" {
		t.Errorf("stamp %q %s", stamp, diff)
	}
	info := run(t, "qemu-img", "info", c.Overlay)
	for _, line := range []string{
		"file format: qcow2", "virtual size: 8 MiB (8388608 bytes)", "backing file: " + filepath.Base(disk.Path),
		"backing file format: " + string(disk.Format), "compat: 1.1", "corrupt: false",
	} {
		if !strings.Contains(info, line) {
			t.Errorf("no %q in\n%s", line, info)
		}
	}
	if out := run(t, "qemu-img", "check", c.Overlay); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	levels := 2
	if disk.Base != "" {
		levels = 3
	}
	if chain := run(t, "qemu-img", "info", "--backing-chain", c.Overlay); strings.Count(chain, "image: ") != levels {
		t.Errorf("want %d levels:\n%s", levels, chain)
	}
	if got := mode(t, c.Overlay); got != "600 0:0" {
		t.Errorf("overlay has mode %s", got)
	}
}

// The overlay is as large as the disk below, up to the largest, and when its last sector is not whole.
func TestCleanPointSizes(t *testing.T) {
	s, dir := newStore(t)
	for i, size := range []int64{mib, 512*mib + 65536, 2048 * gib} {
		base := filepath.Join(t.TempDir(), "base.qcow2")
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, fmt.Sprint(size))
		clone(t, s, key(i), add(t, s, base).Digest)
		c := prepare(t, s, key(i))
		end := size - 4096
		run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 7 %d 4096", end), "-c", fmt.Sprintf("read -P 7 %d 4096", end), c.Overlay)
		if out := run(t, "qemu-img", "check", c.Overlay) + run(t, "qemu-img", "info", c.Overlay); !strings.Contains(out, "No errors were found") ||
			!strings.Contains(out, fmt.Sprintf("(%d bytes)", size)) {
			t.Error(size, out)
		}
	}
	odd := filepath.Join(dir, "capsules", keyA, "disk.raw")
	plant(t, odd)
	truncate(t, odd, mib+1)
	if out := run(t, "qemu-img", "info", prepare(t, s, keyA).Overlay); !strings.Contains(out, fmt.Sprintf("(%d bytes)", mib+512)) {
		t.Error(out)
	}
	for name, head := range map[string][]byte{"empty": nil, "foreign": noise(1, 4096), "huge": append([]byte("QFI\xfb\x00\x00\x00\x03"), noise(1, 96)...)} {
		disk := filepath.Join(dir, "capsules", keyB, "disk.qcow2")
		plant(t, disk)
		if err := os.WriteFile(disk, head, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := s.PrepareCleanPoint(t.Context(), keyB, 0); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// A stamp changes with the contents of the disk and of what is below it, and with nothing else.
func TestStamp(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			s := open(t, imagestore.Options{Dir: filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")})
			f := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
			last := ""
			changed := func() bool {
				t.Helper()
				stamp, err := s.Stamp(t.Context(), keyA)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { last = stamp }()
				return stamp != last
			}
			changed()
			image := string(f.Format)
			later := time.Now().Add(time.Hour)
			for _, tt := range []struct {
				name string
				do   func()
				want bool
			}{
				{"read", func() { run(t, "qemu-img", "compare", "-f", image, "-F", image, f.Path, f.Path) }, false},
				{"overlay written", func() {
					run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 3 0 64k", prepare(t, s, keyA).Overlay)
				}, false},
				{"owner and mode", func() { run(t, "sh", "-c", `chown 64055:64055 "$1" && chmod 640 "$1"`, "sh", f.Path) }, false},
				{"attribute", func() { // where libvirt remembers the former owner; with it the file takes a block more
					if err := unix.Setxattr(f.Path, "trusted.libvirt.security.dac", noise(1, 500), 0); err != nil {
						t.Fatal(err)
					}
				}, false},
				{"link", func() { run(t, "ln", f.Path, filepath.Join(filepath.Dir(f.Path), "other")) }, false},
				{"written", func() { run(t, "qemu-io", "-f", image, "-c", "write -P 3 64k 512", f.Path) }, true},
				{"discarded", func() { run(t, "fallocate", "--punch-hole", "--length", "4096", f.Path) }, true},
				{"replaced", func() {
					run(t, "sh", "-c", `cp -p "$1" "$1.new" && mv "$1.new" "$1"`, "sh", f.Path)
				}, true},
				{"base written", func() {
					if err := os.Chtimes(f.Base, later, later); f.Base != "" && err != nil {
						t.Fatal(err)
					}
				}, f.Base != ""},
				{"nothing", func() {}, false},
			} {
				if tt.do(); changed() != tt.want {
					t.Errorf("%s: changed is %v", tt.name, !tt.want)
				}
			}
		})
	}
}

// Without room nothing is made, and the numbers are said.
func TestCleanPointDiskFull(t *testing.T) {
	for _, fs := range fileSystems[:2] { // btrfs keeps room for metadata apart
		t.Run(fs.kind, func(t *testing.T) {
			at := testhost.LoopFS(t, fs.kind, fs.bytes)
			dir := filepath.Join(at, "state")
			s := open(t, imagestore.Options{Dir: dir, ReserveBytes: mib})
			clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
			before := tree(t, dir)
			if _, err := s.PrepareCleanPoint(t.Context(), keyA, fs.bytes); !errors.Is(err, imagestore.ErrExhausted) ||
				!strings.Contains(err.Error(), fmt.Sprintf("%d needed, %d kept", fs.bytes, mib)) {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, imagestore.Options{Dir: dir})
			plant(t, filepath.Join(dir, "capsules", keyA, "overlay.qcow2"))
			fillers := make([]string, 100) // made before, since a full XFS has no room for a name either
			for i := range fillers {
				fillers[i] = filepath.Join(at, fmt.Sprint("filler", i))
				plant(t, fillers[i])
			}
			fill(t, fillers[0])
			var err error
			for _, filler := range fillers[1:] { // a full disk has room for a small file yet
				if _, err = s.PrepareCleanPoint(t.Context(), keyA, 0); err != nil {
					break
				}
				fill(t, filler)
			}
			if !errors.Is(err, imagestore.ErrExhausted) {
				t.Error(err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is dropped gives its blocks back while somebody still has it open, and reads as nothing.
func TestDropGivesBack(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			s := open(t, imagestore.Options{Dir: filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")})
			clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
			c := prepare(t, s, keyA)
			for path, drop := range map[string]func() error{
				c.Overlay:         func() error { return s.DropOverlay(t.Context(), keyA) },
				c.RAM:             func() error { return s.DropRAM(t.Context(), keyA) },
				s.SerialLog(keyA): func() error { return s.DropSerialLog(t.Context(), keyA) },
			} {
				if err := os.WriteFile(path, noise(1, 8*mib), 0o600); err != nil {
					t.Fatal(err)
				}
				held, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer held.Close()
				if err := errors.Join(held.Sync(), drop()); err != nil {
					t.Fatal(err)
				}
				var st unix.Stat_t
				for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // RAM a moment after the call
					if err = unix.Fstat(int(held.Fd()), &st); err != nil || st.Blocks == 0 || time.Now().After(end) {
						break
					}
				}
				if err != nil || st.Blocks != 0 || st.Size != 0 || st.Nlink != 0 {
					t.Errorf("%s: %d blocks, %d bytes, %d names left, %v", path, st.Blocks, st.Size, st.Nlink, err)
				}
			}
		})
	}
}

// Only the log and its rotated predecessors go; what a crash left half dropped goes with them.
func TestDropSerialLog(t *testing.T) {
	s, dir := newStore(t)
	for _, name := range []string{
		"serial.log", "serial.log.0", "serial.log.12", ".new-serial.log", ".new-serial.log.3", // these go
		"serial.log.", "serial.log.gz", "serial.log.1.gz", "serial.logs", "xserial.log", "disk.raw",
	} {
		plant(t, filepath.Join(dir, "capsules", keyA, name))
	}
	if err := s.DropSerialLog(t.Context(), keyA); err != nil {
		t.Error(err)
	}
	want := []string{"disk.raw", "serial.log.", "serial.log.1.gz", "serial.log.gz", "serial.logs", "xserial.log"}
	if diff := cmp.Diff(want, tree(t, filepath.Join(dir, "capsules", keyA))); diff != "" {
		t.Error(diff)
	}
	if err := s.DropSerialLog(t.Context(), keyB); err != nil {
		t.Error("absent:", err)
	}
}

// Nothing is read or destroyed by way of a link that stands where the files should be, or that gives them a second name.
func TestCleanPointPlantedLinks(t *testing.T) {
	s, dir := newStore(t)
	f := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
	before := tree(t, dir)
	outside := filepath.Join(filepath.Dir(dir), "precious")
	plant(t, outside)
	at := func(name string) string { return filepath.Join(filepath.Dir(f.Path), name) }
	ctx := t.Context()
	for name, how := range map[string]func(old, new string) error{"symbolic": os.Symlink, "hard": os.Link} {
		for _, file := range []string{"overlay.qcow2", "clean.ram", "serial.log", "serial.log.0", ".new-overlay.qcow2", ".new-clean.ram"} {
			if err := how(outside, at(file)); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := s.CleanPoint(ctx, keyA); (err == nil) != (name == "hard") {
			t.Errorf("%s links: %+v, %v", name, c, err)
		}
		prepare(t, s, keyA)
		if err := errors.Join(s.DropOverlay(ctx, keyA), s.DropRAM(ctx, keyA), s.DropSerialLog(ctx, keyA)); err != nil {
			t.Errorf("%s links: %v", name, err)
		}
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("%s links: %s", name, diff)
		}
		if b, err := os.ReadFile(outside); string(b) != "planted" {
			t.Errorf("%s links were followed: %q, %v", name, b, err)
		}
	}
	link(t, filepath.Dir(f.Path), filepath.Join(dir, "capsules", keyB)) // a whole directory that leads elsewhere
	if c, err := s.PrepareCleanPoint(ctx, keyB, 0); err == nil {
		t.Errorf("%+v", c)
	}
	if err := s.DropOverlay(ctx, keyB); err == nil {
		t.Error("dropped by way of a link")
	}
}

func TestCleanPointRefuses(t *testing.T) {
	s, dir := newStore(t)
	calls := func(key string) map[string]error {
		return map[string]error{
			"prepare": second(s.PrepareCleanPoint(t.Context(), key, 0)), "look": second(s.CleanPoint(t.Context(), key)),
			"stamp": second(s.Stamp(t.Context(), key)), "holders": second(s.OpenBy(t.Context(), key)),
			"overlay": s.DropOverlay(t.Context(), key), "ram": s.DropRAM(t.Context(), key), "log": s.DropSerialLog(t.Context(), key),
		}
	}
	for _, bad := range []string{"", "..", keyA + "/..", strings.ToUpper(keyA), strings.Repeat("a", 1<<20)} {
		for name, err := range calls(bad) {
			if !errors.Is(err, imagestore.ErrInvalid) || len(err.Error()) > 1000 {
				t.Errorf("%s %.50q: %.200v", name, bad, err)
			}
		}
	}
	for name, err := range calls(keyA) {
		dropping := slices.Contains([]string{"overlay", "ram", "log"}, name)
		if dropping && err != nil || !dropping && !errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
	if _, err := s.PrepareCleanPoint(t.Context(), keyA, -1); !errors.Is(err, imagestore.ErrInvalid) {
		t.Error(err)
	}
	for _, name := range []string{"overlay", "clean"} {
		if _, err := s.CloneVolume(t.Context(), keyA, imagestore.Volume{Name: name, Bytes: 16 * mib}); !errors.Is(err, imagestore.ErrInvalid) {
			t.Error(name, err)
		}
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}
