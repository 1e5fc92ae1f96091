package imagestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// realHeaders are the first clusters of files that qemu-img made.
func realHeaders(t testing.TB) [][]byte {
	t.Helper()
	var heads [][]byte
	for _, options := range []string{
		"compat=1.1", "compat=0.10", "extended_l2=on", "cluster_size=512", "cluster_size=2M", "compression_type=zstd",
		"lazy_refcounts=on", "refcount_bits=64", "data_file=/nonexistent.data",
	} {
		path := filepath.Join(t.TempDir(), "disk")
		args := []string{"create", "-q", "-f", "qcow2", "-o", options, path, "1G"}
		if options == "data_file=/nonexistent.data" {
			args[5] = "data_file=" + filepath.Join(t.TempDir(), "data")
		}
		if out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, b[:min(len(b), 4096)])
	}
	return append(heads, overlayHeader(1<<30, 2, "base-disk.raw", Raw))
}

// FuzzQcow2Header reads arbitrary headers of files of arbitrary length. What passes must keep the promises that
// the rest of the package builds on, and QEMU must read it as we do or not at all.
func FuzzQcow2Header(f *testing.F) {
	for _, head := range realHeaders(f) {
		f.Add(head, int64(1<<20))
		f.Add(head[:len(head)/2], int64(100))
	}
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if size < 0 || size > 1<<40 {
			return
		}
		head = head[:min(int64(len(head)), size)]
		padded := bytes.NewReader(append(bytes.Clone(head), make([]byte, max(0, min(size, 8<<20)-int64(len(head))))...))
		h, err := parseQcow2(padded, min(size, 8<<20))
		if err != nil {
			if _, ok := errors.AsType[*BadImage](err); !ok {
				t.Fatal("an error that tells the caller nothing:", err)
			}
			return
		}
		fileBytes := uint64(min(size, 8<<20))
		switch {
		case h.Size == 0 || h.Size > maxVirtual || h.Size%512 != 0,
			h.BackingOffset != 0 || h.CryptMethod != 0 || h.Snapshots != 0,
			h.Incompatible&^(incompatCompression|incompatExtendedL2) != 0,
			h.ClusterBits < 9 || h.ClusterBits > 21,
			h.L1Offset+uint64(h.L1Entries)*8 > fileBytes,
			h.RefcountOffset+uint64(h.RefcountChunks)<<h.ClusterBits > fileBytes:
			t.Fatalf("accepted %+v", h)
		}
		if crc32.ChecksumIEEE(head)%16 == 0 { // a process for each would be most of the work
			agrees(t, head, int64(fileBytes), h)
		}
	})
}

// agrees has QEMU read the header.
func agrees(t *testing.T, head []byte, size int64, h *qcow2Header) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, head, 0o444), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := describe(t.Context(), f, "-f", "qcow2")
	if err != nil {
		return // QEMU is stricter here, so the import ends in a refusal
	}
	if info.VirtualSize != h.Size || info.BackingFile != "" || info.Encrypted || len(info.Snapshots) > 0 || info.Specific.Data.DataFile != "" {
		t.Fatalf("QEMU reads %+v, we read %+v", info, h)
	}
}

// The headers that QEMU makes pass, but for those that need another file.
func TestRealHeaders(t *testing.T) {
	for i, head := range realHeaders(t) {
		h, err := parseQcow2(bytes.NewReader(head), 32<<20)
		if wantErr := binary.BigEndian.Uint64(head[8:]) != 0 || head[79]&incompatDataFile != 0 && head[7] == 3; (err != nil) != wantErr {
			t.Errorf("%d: %v", i, err)
		} else if err == nil {
			agrees(t, head, 32<<20, h)
		}
	}
}

// FuzzPartitions reads arbitrary first and last sectors of raw disks.
func FuzzPartitions(f *testing.F) {
	f.Add(make([]byte, 2048), make([]byte, 512), int64(64<<10))
	f.Add([]byte("EFI PART"), []byte("conectix"), int64(64<<10))
	f.Fuzz(func(t *testing.T, first, last []byte, size int64) {
		if size < 0 || size > 256<<10 {
			return
		}
		disk := make([]byte, size)
		copy(disk, first)
		copy(disk[max(0, len(disk)-len(last)):], last)
		if len(disk) >= 512 {
			copy(disk[510:], mbrSignature)
		}
		for _, err := range []error{checkForeign(bytes.NewReader(disk), size), checkPartitions(bytes.NewReader(disk), size)} {
			if _, ok := errors.AsType[*BadImage](err); err != nil && !ok {
				t.Fatal("an error that tells the caller nothing:", err)
			}
		}
	})
}
