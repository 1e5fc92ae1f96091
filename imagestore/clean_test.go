package imagestore_test

import (
	"bytes"
	"encoding/binary"
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

// secrets are what must not travel, by where it is.
var secrets = map[string]string{
	"/etc/machine-id":                 "SECRETmachineid",
	"/etc/ssh/ssh_host_rsa_key":       "SECREThostkey",
	"/etc/ssh/ssh_host_rsa_key.pub":   "SECREThostpub",
	"/home/u/.ssh/authorized_keys":    "SECRETauthorized",
	"/home/u/.ssh/deep/er":            "SECRETdeep",
	"/home/u/.htrc":                   "SECREThtrc",
	"/home/u/.bash_history":           "SECREThistory",
	"/home/u/a name with <2>/.htrc":   "SECRETquoted",
	"/root/-R ls/.python_history":     "SECRETdashed",
	"/root/deleted before":            "SECRETdeletedbyguest",
	"/root/hard":                      "SECREThardlinked",
	"/srv/inline/.htrc":               "SECRETtiny",
	"/var/lib/\"quoted\nname/.htrc_x": "KEEPSqueer",
	"/etc/ssh/sshd_config":            "KEEPSconfig",
	"/home/u/thesis":                  "KEEPSthesis",
}

var cleaning = imagestore.Clean{
	Remove: []string{"/etc/ssh/ssh_host_*", ".ssh", ".htrc", ".*_history", "/root/hard"},
	Empty:  []string{"/etc/machine-id"},
}

// guestTree is a directory with the secrets as files, some long, to be made a file system of.
func guestTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for at, text := range secrets {
		path := filepath.Join(dir, at)
		length := 30_000
		if strings.Contains(at, "inline") || strings.Contains(at, "machine-id") {
			length = 20
		}
		b := bytes.Repeat([]byte(text+"\n"), length/len(text)+1)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b[:length], 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "root/hard"), filepath.Join(dir, "home/u/other name")); err != nil {
		t.Fatal(err)
	}
	link(t, "/home/u/thesis", filepath.Join(dir, "home/u/.sqlite_history"))
	link(t, "../../../../../../../etc/passwd", filepath.Join(dir, "root/.bash_history"))
	for i := range 300 { // enough for a directory of several blocks
		plant(t, filepath.Join(dir, "usr/share", fmt.Sprintf("%060d", i)))
	}
	return dir
}

// table is a boot sector with the given partitions: kind, first MiB, length in MiB.
func table(entries ...[3]int) []byte {
	b := mbr(0, 0)
	clear(b[446:510])
	for i, e := range entries {
		at := b[446+16*i:]
		at[4] = byte(e[0])
		binary.LittleEndian.PutUint32(at[8:], uint32(e[1]*mib/512))
		binary.LittleEndian.PutUint32(at[12:], uint32(e[2]*mib/512))
	}
	return b
}

// guestDisk is a disk with an ext file system at 1 MiB, and one in a logical partition with swap space beside.
func guestDisk(t testing.TB, from string, mkfs ...string) string {
	t.Helper()
	swap := append(noise(3, 4096), bytes.Repeat([]byte("SECRETpagedout"), 1000)...)
	copy(swap[4086:], "SWAPSPACE2")
	path := write(t, 128*mib, map[int64][]byte{
		0:        table([3]int{0x83, 1, 60}, [3]int{0x05, 64, 60}),
		64 * mib: table([3]int{0x82, 1, 8}, [3]int{0x05, 10, 40}),
		65 * mib: swap,
		74 * mib: table([3]int{0x83, 1, 30}),
	})
	for _, at := range []int{1, 75} {
		size := map[int]string{1: "60M", 75: "30M"}[at]
		argv := append([]string{"mkfs.ext4", "-q", "-F", "-d", from, "-E", fmt.Sprintf("offset=%d", at*mib)}, mkfs...)
		run(t, append(argv, path, size)...)
		// A file that the guest deleted: its blocks are free, and full.
		run(t, "debugfs", "-w", "-R", `rm "/root/deleted before"`, fmt.Sprintf("%s?offset=%d", path, at*mib))
	}
	return path
}

// TestFlattenCleans looks for every byte of every secret in the image that comes out.
func TestFlattenCleans(t *testing.T) {
	from := guestTree(t)
	for _, tt := range []struct {
		name, fs string
		mkfs     []string
	}{
		{"ext4 on ext4", "ext4", nil},
		{"ext4 on xfs", "xfs", nil},
		{"ext2", "xfs", []string{"-O", "^has_journal,^extent,^64bit,^metadata_csum"}},
		{"ext3", "xfs", []string{"-O", "^extent,^64bit,^metadata_csum"}},
		{"everything that is new", "xfs", []string{"-O", "inline_data,metadata_csum_seed,orphan_file,fast_commit,bigalloc,quota,project", "-b", "4096"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(testhost.LoopFS(t, tt.fs, 640*mib), "state")
			s := open(t, imagestore.Options{Dir: dir})
			path := guestDisk(t, from, tt.mkfs...)
			disk := clone(t, s, keyA, add(t, s, path).Digest)
			before, err := s.Stamp(t.Context(), keyA)
			if err != nil {
				t.Fatal(err)
			}
			var steps []string
			img, err := s.Flatten(t.Context(), keyA, cleaning, func(step string, _, _ int64) {
				if len(steps) == 0 || steps[len(steps)-1] != step {
					steps = append(steps, step)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(steps, img)
			if after, err := s.Stamp(t.Context(), keyA); err != nil || after != before {
				t.Error("the disk itself was changed")
			}
			same(t, disk, path, "raw")
			wantCleaned(t, dir, img)
			if names := tree(t, filepath.Join(dir, "images", "incoming")); len(names) > 0 {
				t.Error(names)
			}
		})
	}
}

// A guest that was stopped hard has a journal to be replayed, which would bring back what was removed, and one that
// journals data has it there for long.
func TestFlattenCleansJournal(t *testing.T) {
	s, dir := newStore(t)
	// Mounted twice over: the inner one has the options that the test host offers no way to.
	outer := testhost.LoopFS(t, "ext4", 96*mib)
	inner, mounted := filepath.Join(outer, "inner.img"), filepath.Join(outer, "inner")
	if err := errors.Join(os.WriteFile(inner, nil, 0o600), os.Truncate(inner, 40*mib), os.Mkdir(mounted, 0o755)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", inner)
	for i := range 64 {
		_ = command(t, "mknod", "-m", "600", fmt.Sprintf("/dev/loop%d", i), "b", "7", fmt.Sprint(i)).Run() // there already, perhaps
	}
	run(t, "mount", "-o", "loop,data=journal", inner, mounted)
	defer run(t, "umount", mounted)
	if err := os.MkdirAll(filepath.Join(mounted, "home/u"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".htrc": "SECREThtrc", "gone": "SECRETdeletedbyguest", "thesis": "KEEPSthesis"} {
		if err := os.WriteFile(filepath.Join(mounted, "home/u", name), bytes.Repeat([]byte(text), 3000), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "sync", "-f", mounted)
	}
	if err := os.Remove(filepath.Join(mounted, "home/u/gone")); err != nil {
		t.Fatal(err)
	}
	run(t, "sync", "-f", mounted)
	path := write(t, 48*mib, map[int64][]byte{0: table([3]int{0x83, 1, 40}), mib: read(t, inner)})
	if out := run(t, "debugfs", "-R", "features", path+"?offset=1048576"); !strings.Contains(out, "needs_recovery") {
		t.Fatal("it was shut down cleanly:", out)
	}
	if n := bytes.Count(read(t, path), []byte("SECRETdeletedbyguest")); n < 3000 {
		t.Fatal("no journal of it:", n)
	}
	clone(t, s, keyA, add(t, s, path).Digest)
	img := flatten(t, s, keyA, imagestore.Clean{Remove: []string{".htrc"}})
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-O", "raw", "-f", string(img.Format), imagePath(dir, img), raw)
	if n := bytes.Count(read(t, raw), []byte("SECRET")); n > 0 {
		t.Error(n, "secrets")
	}
	out := run(t, "debugfs", "-R", "cat /home/u/thesis", raw+"?offset=1048576")
	if strings.Count(out, "KEEPSthesis") != 3000 {
		t.Error("the thesis is not whole")
	}
	if out := run(t, "debugfs", "-R", "features", raw+"?offset=1048576"); !strings.Contains(out, "has_journal") || strings.Contains(out, "needs_recovery") {
		t.Error(out)
	}
	run(t, "e2fsck", "-fn", raw+"?offset=1048576")
}

// What cannot be cleaned is refused by its name, and what holds a boot loader is left alone.
func TestFlattenCannotClean(t *testing.T) {
	s, dir := newStore(t)
	ext4 := write(t, 20*mib, nil)
	run(t, "mkfs.ext4", "-q", "-F", ext4)
	encrypted := write(t, 20*mib, nil)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "encrypt", encrypted)
	damaged := write(t, 20*mib, map[int64][]byte{1080: []byte("\x53\xef")})
	fat := func(n int64) []byte {
		b := make([]byte, 512)
		copy(b[n:], "FAT16   ")
		return b
	}
	at := func(offset int, magic string) []byte { return append(make([]byte, offset), magic...) }
	for _, tt := range []struct {
		name  string
		kind  int
		b     []byte
		words string // "" if it is left alone
	}{
		{"XFS", 0x83, []byte("XFSB"), "XFS"}, {"LUKS", 0x83, []byte("LUKS\xba\xbe"), "LUKS"}, {"LVM", 0x8e, at(512, "LABELONE"), "LVM"},
		{"btrfs", 0x83, at(0x10040, "_BHRfS_M"), "btrfs"}, {"NTFS", 0x07, at(3, "NTFS    "), "NTFS"}, {"RAID", 0xfd, at(4096, "\xfc\x4e\x2b\xa9"), "RAID"},
		{"anything", 0x83, noise(1, 5000), "unknown data"}, {"something late", 0x83, at(15*mib, "x"), "unknown data"},
		{"LUKS over ext4", 0x83, append([]byte("LUKS\xba\xbe"), read(t, ext4)[6:]...), "LUKS"},
		{"encrypted", 0x83, read(t, encrypted), "encrypted directories"}, {"damaged", 0x83, read(t, damaged), "damaged"},
		{"data on FAT", 0x0c, fat(54), "FAT"},
		{"EFI", 0xef, fat(54), ""}, {"EFI, FAT32", 0xef, fat(82), ""}, {"EFI, but ext", 0xef, read(t, ext4), ""}, {"PReP", 0x41, noise(1, 5000), ""}, {"nothing", 0x83, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, 48*mib, map[int64][]byte{0: table([3]int{tt.kind, 1, 20}, [3]int{0x83, 24, 20}), mib: tt.b, 24 * mib: read(t, ext4)})
			clone(t, s, keyA, add(t, s, path).Digest)
			img, err := s.Flatten(t.Context(), keyA, cleaning, nil)
			if tt.words == "" {
				if err != nil {
					t.Error(err)
				}
			} else if wantRefusal(t, err, tt.words); !errors.Is(err, imagestore.ErrUnsupported) {
				t.Error(err)
			}
			made := img.Digest
			if made == "" {
				made = digestOf(t, path) // nothing was made: remove the source alone
			}
			if err := errors.Join(s.Erase(t.Context(), keyA), s.Remove(t.Context(), made), s.Remove(t.Context(), digestOf(t, path))); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
	path := write(t, 48*mib, map[int64][]byte{0: table([3]int{0xef, 1, 20}), mib: fat(54)})
	clone(t, s, keyA, add(t, s, path).Digest)
	_, err := s.Flatten(t.Context(), keyA, cleaning, nil)
	wantRefusal(t, err, "no ext file system")
}

// wantCleaned wants no secret anywhere in an image, and all the rest where it was.
func wantCleaned(t *testing.T, dir string, img imagestore.Image) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-O", "raw", "-f", string(img.Format), imagePath(dir, img), raw)
	b := read(t, raw)
	for at, text := range secrets {
		if n := bytes.Count(b, []byte(text)); (n > 0) != strings.HasPrefix(text, "KEEPS") {
			t.Errorf("%q is there %d times: %s", text, n, at)
		}
	}
	if bytes.Contains(b, []byte("SECRETpagedout")) || !bytes.Contains(b, []byte("SWAPSPACE2")) {
		t.Error("swap space is not what it should be")
	}
	for _, at := range []int{1, 75} {
		fs := fmt.Sprintf("%s?offset=%d", raw, at*mib)
		run(t, "e2fsck", "-fn", fs)
		to := t.TempDir()
		run(t, "debugfs", "-R", "rdump / "+to, fs)
		for name, text := range secrets {
			got, err := os.ReadFile(filepath.Join(to, name))
			switch {
			case strings.HasSuffix(name, "machine-id"):
				if err != nil || len(got) > 0 {
					t.Errorf("%s is not there and empty: %q %v", name, got, err)
				}
			case strings.HasPrefix(text, "SECRET"):
				if err == nil {
					t.Errorf("%s is still there", name)
				}
			case !bytes.HasPrefix(got, []byte(text)) || len(got) != 30_000:
				t.Errorf("%s is not whole: %d bytes, %v", name, len(got), err)
			}
		}
		for _, name := range []string{"home/u/.ssh", "home/u/other name", "home/u/.sqlite_history", "root/.bash_history"} {
			if _, err := os.Lstat(filepath.Join(to, name)); err == nil {
				t.Error(name, "is still there")
			}
		}
		if names := tree(t, filepath.Join(to, "usr/share")); len(names) != 300 {
			t.Error(len(names), "bystanders")
		}
	}
}
