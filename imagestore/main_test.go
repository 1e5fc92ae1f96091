package imagestore_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) {
	// Each step of the property test runs real programs; a flag of the caller's still wins.
	for name, value := range map[string]string{"rapid.checks": "20", "rapid.steps": "30"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	testhost.Main(m)
}

const (
	mib = 1 << 20
	gib = 1 << 30

	readerGID = 4242 // nobody's group on any test machine

	keyA = "0b8f1a54-3f0e-4d0b-9a53-2f7c7a3f6a01"
	keyB = "0b8f1a54-3f0e-4d0b-9a53-2f7c7a3f6a02"
)

var (
	secureVolume = imagestore.Volume{Name: "secure_volume", Bytes: 64 * mib, BytesPerInode: 8192}
	releaseSpool = imagestore.Volume{Name: "release_spool", Bytes: 32 * mib}
)

// fileSystems are where clones are made: two that reflink, one that cannot.
var fileSystems = []struct {
	kind   string
	bytes  int64
	method string
}{
	{"ext4", 256 * mib, "overlay"},
	{"xfs", 320 * mib, "reflink"},
	{"btrfs", 256 * mib, "reflink"},
}

// open opens a store that is closed with the test.
func open(t testing.TB, opt imagestore.Options) *imagestore.Store {
	t.Helper()
	opt.Log = slog.New(slog.DiscardHandler)
	if opt.ReaderGID == 0 {
		opt.ReaderGID = readerGID
	}
	s, err := imagestore.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newStore is an empty store on the machine's own disk.
func newStore(t testing.TB) (*imagestore.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	return open(t, imagestore.Options{Dir: dir}), dir
}

// run runs a program and returns what it printed.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// noise is data that does not compress and is different for each seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// write makes a file of the given pieces, each at its offset, and the given length; the rest are holes.
func write(t testing.TB, size int64, pieces map[int64][]byte) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, b := range pieces {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// mbr is a boot sector with one partition of the given length in sectors, beginning at sector 8.
func mbr(kind byte, sectors int64) []byte {
	b := make([]byte, 512)
	copy(b, "\xfa\xeb\xfe") // cli, loop: what a boot sector begins with
	b[446], b[450] = 0x80, kind
	binary.LittleEndian.PutUint32(b[454:], 8)
	binary.LittleEndian.PutUint32(b[458:], uint32(sectors))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// rawDisk is a bootable-looking disk with noise at its beginning and end and a hole between.
func rawDisk(t testing.TB, seed byte, size int64) string {
	return write(t, size, map[int64][]byte{0: mbr(0x83, size/512-8), 4096: noise(seed, 300_000), size - 70_000: noise(seed+1, 70_000)})
}

// gptDisk is a disk with a protective MBR, a GPT and its backup; break changes the two headers before their
// checksums are made.
func gptDisk(t testing.TB, size int64) string {
	last := uint64(size/512 - 1)
	table := make([]byte, 128*128)
	copy(table, noise(1, 32))
	binary.LittleEndian.PutUint64(table[32:], 40)
	binary.LittleEndian.PutUint64(table[40:], last-40)
	header := func(self, other, at uint64) []byte {
		b := make([]byte, 512)
		copy(b, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		for off, v := range map[int]uint64{24: self, 32: other, 40: 34, 48: last - 33, 72: at} {
			binary.LittleEndian.PutUint64(b[off:], v)
		}
		copy(b[56:72], noise(9, 16))
		binary.LittleEndian.PutUint32(b[80:], 128)
		binary.LittleEndian.PutUint32(b[84:], 128)
		binary.LittleEndian.PutUint32(b[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
		return b
	}
	boot := mbr(0xEE, 0xFFFFFFFF)
	binary.LittleEndian.PutUint32(boot[454:], 1)
	return write(t, size, map[int64][]byte{
		0: boot, 512: header(1, last, 2), 1024: table,
		size - 512: header(last, 1, last-32), size - 33*512: table,
	})
}

// qcow2Disk converts a raw disk with the given creation options.
func qcow2Disk(t testing.TB, raw string, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	argv := []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2"}
	for _, o := range options {
		argv = append(argv, "-o", o)
	}
	run(t, append(argv, raw, path)...)
	return path
}

// patch changes bytes of a file.
func patch(t testing.TB, path string, at int64, b []byte) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	return path
}

// truncate cuts a file.
func truncate(t testing.TB, path string, size int64) string {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// add imports a file that must be accepted.
func add(t testing.TB, s *imagestore.Store, path string) imagestore.Image {
	t.Helper()
	img, err := s.Import(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// clone makes a clone that must succeed.
func clone(t testing.TB, s *imagestore.Store, key string, d imagestore.Digest) imagestore.File {
	t.Helper()
	f, err := s.Clone(t.Context(), key, d, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// same has QEMU compare two disks as guests would see them.
func same(t testing.TB, a imagestore.File, path, format string) {
	t.Helper()
	run(t, "qemu-img", "compare", "-f", string(a.Format), "-F", format, a.Path, path)
}

// tree lists everything below a directory, sorted, with modes and owners: what an operator would see.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

var emptyTree = []string{"capsules", "images", "images/incoming", "templates"}

// equal compares two files byte by byte.
func equal(t testing.TB, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// mode is a file's permission bits with its owner and group.
func mode(t testing.TB, path string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "stat", "-c", "%a %u:%g", path))
}

func key(i int) string { return fmt.Sprintf("0b8f1a54-3f0e-4d0b-9a53-%012x", i) }

// command is a program that may fail.
func command(t testing.TB, argv ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), argv[0], argv[1:]...)
}
