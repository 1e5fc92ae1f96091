package imagestore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
)

// wantRefusal wants a BadImage whose text contains the words, and a remedy.
func wantRefusal(t *testing.T, err error, words string) {
	t.Helper()
	bad, ok := errors.AsType[*imagestore.BadImage](err)
	if !ok || !errors.Is(err, imagestore.ErrInvalid) {
		t.Fatalf("got %v, want a refusal with %q", err, words)
	}
	if !strings.Contains(bad.Error(), words) || bad.Remedy == "" {
		t.Errorf("got %q, want it to contain %q and to say what to do", bad.Error(), words)
	}
	t.Log(bad)
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// makes runs a program that makes the file named last.
func makes(t testing.TB, name string, argv ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	run(t, append(argv, path)...)
	return path
}

// through pipes a file through a compressor.
func through(t testing.TB, path string, argv ...string) string {
	t.Helper()
	in, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(argv, err)
	}
	return write(t, int64(len(out)), map[int64][]byte{0: out})
}

type badFile struct{ name, path, words string }

// badQcow2 are files whose header, or what QEMU finds behind it, is not acceptable.
func badQcow2(t *testing.T) []badFile {
	raw := rawDisk(t, 1, 4*mib)
	broken := func(at int64, b []byte) string { return patch(t, qcow2Disk(t, raw), at, b) }
	snapshot := qcow2Disk(t, raw)
	run(t, "qemu-img", "snapshot", "-c", "before", snapshot)
	whole := qcow2Disk(t, raw)
	info, err := os.Stat(whole)
	if err != nil {
		t.Fatal(err)
	}
	return []badFile{
		{"backing file", makes(t, "a", "qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", raw), "backing file"},
		{"backing file /etc/passwd", patch(t, broken(8, append(be64(512), be32(11)...)), 512, []byte("/etc/passwd")), "backing file"},
		{"data file", makes(t, "b", "qemu-img", "convert", "-O", "qcow2", "-o", "data_file="+filepath.Join(t.TempDir(), "data"), raw), "data file"},
		{"internal snapshot", snapshot, "snapshots"},
		{"encrypted", makes(t, "c", "qemu-img", "convert", "-O", "qcow2", "--object", "secret,id=s,data=x",
			"-o", "encrypt.format=aes,encrypt.key-secret=s", raw), "encrypted"},
		{"LUKS inside", broken(32, be32(2)), "encrypted"},
		{"dirty", broken(72, be64(1)), "not closed cleanly"},
		{"corrupt", broken(72, be64(2)), "corrupt"},
		{"unknown feature", broken(72, be64(1<<40)), "not known"},
		{"raw data index", broken(88, be64(2)), "raw data file"},
		{"version 1", broken(4, be32(1)), "version 1"},
		{"version 4", broken(4, be32(4)), "version 4"},
		{"tiny clusters", broken(20, be32(8)), "cluster size"},
		{"giant clusters", broken(20, be32(63)), "cluster size"},
		{"empty disk", broken(24, be64(0)), "empty"},
		{"odd disk", broken(24, be64(4*mib+1)), "multiple of 512"},
		{"exabyte disk", broken(24, be64(1<<60)), "2 TiB"},
		{"short L1", broken(24, be64(1<<40)), "L1 table"},
		{"giant L1", broken(36, be32(1<<31)), "L1 table"},
		{"L1 past the end", broken(40, be64(1<<30)), "outside the file"},
		{"L1 offset overflows", broken(40, be64(1<<64-65536)), "outside the file"},
		{"L1 in the header", broken(40, be64(0)), "outside the file"},
		{"refcounts past the end", broken(48, be64(1<<30)), "outside the file"},
		{"no refcounts", broken(56, be32(0)), "refcount"},
		{"giant refcounts", broken(56, be32(1<<31)), "refcount"},
		{"wide refcounts", broken(96, be32(7)), "64 bits"},
		{"header length", broken(100, be32(1<<31)), "first cluster"},
		{"header length 8", broken(100, be32(8)), "header"},
		{"endless extension", broken(112, append(be32(1234), be32(1<<31)...)), "first cluster"},
		{"data file by extension only", broken(112, append(be32(0x44415441), be32(8)...)), "data file"},
		{"compression type", broken(104, []byte{1}), "compression"},
		{"only a magic", truncate(t, qcow2Disk(t, raw), 4), "ends within"},
		{"half a header", truncate(t, qcow2Disk(t, raw), 100), "ends within"},
		{"only a header", truncate(t, qcow2Disk(t, raw), 4096), "outside the file"},
		{"truncated in the tables", truncate(t, qcow2Disk(t, raw), 3*65536), "outside the file"},
		{"truncated in the data", truncate(t, whole, info.Size()-2*65536), "damaged"},
		{"L2 table scrawled over", broken(4*65536, noise(1, 4096)), "damaged"},
	}
}

// strangeBackup is a GPT disk with the backup of another disk, in itself correct.
func strangeBackup(t *testing.T) string {
	strange := gptDisk(t, 4*mib)
	b, err := os.ReadFile(strange)
	if err != nil {
		t.Fatal(err)
	}
	b = b[4*mib-512:]
	b[56] ^= 0xff
	clear(b[16:20])
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
	return patch(t, strange, 4*mib-512, b)
}

// badRaw are files that are no whole, bootable raw disks.
func badRaw(t *testing.T) []badFile {
	raw := rawDisk(t, 1, 4*mib)
	convert := func(format string, more ...string) string {
		return makes(t, "disk."+format, append(append([]string{"qemu-img", "convert", "-O", format}, more...), raw)...)
	}
	gpt := func(at int64) string { return patch(t, gptDisk(t, 4*mib), at, []byte{0xff}) }
	boot := func(kind byte, sectors int64) string { return write(t, mib, map[int64][]byte{0: mbr(kind, sectors)}) }
	badStatus := mbr(0x83, 100)
	badStatus[446] = 0x31
	iso := write(t, mib, map[int64][]byte{32769: []byte("CD001")})
	ext4 := write(t, mib, nil)
	run(t, "mkfs.ext4", "-q", "-F", ext4)
	tar := through(t, raw, "tar", "-C", filepath.Dir(raw), "-cf", "-", filepath.Base(raw))
	return []badFile{
		{"vmdk", convert("vmdk"), "VMDK"},
		{"vmdk, split", convert("vmdk", "-o", "subformat=twoGbMaxExtentSparse"), "VMDK"},
		{"vdi", convert("vdi"), "VDI"},
		{"vhdx", convert("vhdx"), "VHDX"},
		{"vhd, dynamic", convert("vpc"), "VHD"},
		{"vhd, fixed", convert("vpc", "-o", "subformat=fixed,force_size=on"), "VHD"},
		{"qed", convert("qed"), "QED"},
		{"parallels", convert("parallels"), "Parallels"},
		{"qcow version 1", convert("qcow"), "version 1"},
		{"luks", write(t, mib, map[int64][]byte{0: []byte("LUKS\xba\xbe\x00\x01")}), "LUKS"},
		{"dmg", write(t, mib, map[int64][]byte{0: mbr(0x83, 8), mib - 512: []byte("koly")}), "DMG"},
		{"gzip", through(t, raw, "gzip", "-c"), "decompress"},
		{"xz", through(t, raw, "xz", "-0", "-c"), "decompress"},
		{"bzip2", through(t, raw, "bzip2", "-c"), "decompress"},
		{"zstd", write(t, mib, map[int64][]byte{0: []byte("\x28\xb5\x2f\xfd")}), "decompress"},
		{"tar", tar, "tar"},
		{"zip", write(t, mib, map[int64][]byte{0: []byte("PK\x03\x04")}), "zip"},
		{"iso", iso, "CD image"},
		{"bare ext4", ext4, "ext file system"},
		{"text", write(t, mib, map[int64][]byte{0: []byte("root:x:0:0:root:/root:/bin/bash\n")}), "no disk"},
		{"empty", write(t, 0, nil), "empty"},
		{"a few bytes", write(t, 17, nil), "17 bytes long"},
		{"odd length", truncate(t, rawDisk(t, 1, mib), mib+1), "multiple of 512"},
		{"no partition", boot(0, 0), "empty"},
		{"partition of no length", boot(0x83, 0), "no length"},
		{"no table but code", write(t, mib, map[int64][]byte{0: badStatus}), "status 0x31"},
		{"partition past the end", boot(0x83, 1<<31), "partition 1 ends"},
		{"raw, cut short", truncate(t, rawDisk(t, 1, mib), mib-512), "partition 1 ends"},
		{"GPT, cut short", truncate(t, gptDisk(t, 4*mib), 2*mib), "GPT speaks of sector 8191"},
		{"GPT missing", boot(0xEE, 8), "missing"},
		{"GPT with a wrong checksum", gpt(512 + 40), "checksum"},
		{"GPT table scrawled over", gpt(1024 + 3), "checksum"},
		{"GPT backup scrawled over", gpt(4*mib - 512 + 40), "backup"},
		{"GPT backup of another disk", strangeBackup(t), "differ"},
		{"GPT backup table scrawled over", gpt(4*mib - 33*512), "backup"},
	}
}

func TestImportRefuses(t *testing.T) {
	s, dir := newStore(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := append(badQcow2(t), badRaw(t)...)
	bad = append(bad,
		badFile{"directory", t.TempDir(), "not a regular file"},
		badFile{"device", "/dev/zero", "not a regular file"},
		badFile{"fifo", fifo, "not a regular file"},
	)
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Import(t.Context(), tt.path, nil)
			wantRefusal(t, err, tt.words)
			if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := s.Import(t.Context(), filepath.Join(dir, "absent"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The disk of one capsule is no image for another, however it is called.
func TestImportRefusesItsOwn(t *testing.T) {
	s, dir := newStore(t)
	f := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
	link := filepath.Join(t.TempDir(), "innocent.qcow2")
	if err := os.Symlink(f.Path, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{f.Path, link, filepath.Join(dir, "capsules", "..", "capsules", keyA, "base-disk.raw")} {
		_, err := s.Import(t.Context(), path, nil)
		wantRefusal(t, err, "belongs to the image store")
	}
}
