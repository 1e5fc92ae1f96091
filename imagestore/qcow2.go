package imagestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// The qcow2 header, as QEMU's docs/interop/qcow2.txt has it. All numbers are big-endian.
const (
	qcow2Magic     = "QFI\xfb"
	qcow2V2Length  = 72
	qcow2V3Length  = 104
	maxVirtual     = 2 << 40 // a disk larger than this is a mistake or an attack
	maxL1Bytes     = 32 << 20
	maxRefcountTab = 8 << 20 // both limits are QEMU's own

	extEnd           = 0
	extBackingFormat = 0xE2792ACA
	extDataFile      = 0x44415441
	extEncryption    = 0x0537BE77

	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2

	autoclearRawData = 1 << 1
)

// qcow2Header is the fixed part of the header, field by field as on disk.
type qcow2Header struct {
	Magic          [4]byte
	Version        uint32
	BackingOffset  uint64
	BackingLength  uint32
	ClusterBits    uint32
	Size           uint64
	CryptMethod    uint32
	L1Entries      uint32
	L1Offset       uint64
	RefcountOffset uint64
	RefcountChunks uint32 // clusters of the refcount table
	Snapshots      uint32
	SnapshotOffset uint64
	// From here on version 3 only.
	Incompatible  uint64
	Compatible    uint64
	Autoclear     uint64
	RefcountOrder uint32
	HeaderLength  uint32
}

// qcow2File is a header with what the rules need to judge it.
type qcow2File struct {
	qcow2Header
	fileBytes   uint64
	compression byte
	extensions  map[uint32]bool
}

const (
	remedyFlatten  = "make a self-contained copy: qemu-img convert -O qcow2 OLD NEW"
	remedyRepair   = "repair it where it came from: qemu-img check -r all FILE"
	remedyTransfer = "the file is damaged or cut short: compare it with its source and copy it again"
	remedyNewer    = "convert it: qemu-img convert -O qcow2 -o compat=1.1 OLD NEW"
)

// qcow2Rules are judged in order, so that a rule may rely on those above it.
var qcow2Rules = []struct {
	bad    func(f *qcow2File) bool
	fault  string
	remedy string
}{
	{func(f *qcow2File) bool { return f.BackingOffset != 0 || f.BackingLength != 0 },
		"it has a backing file, so it is only a part of a disk", remedyFlatten},
	{func(f *qcow2File) bool { return f.Incompatible&incompatDataFile != 0 || f.extensions[extDataFile] },
		"its data is in an external data file", remedyFlatten},
	{func(f *qcow2File) bool { return f.Autoclear&autoclearRawData != 0 },
		"it is marked as the index of a raw data file", remedyFlatten},
	{func(f *qcow2File) bool { return f.CryptMethod != 0 || f.extensions[extEncryption] },
		"it is encrypted", "decrypt it: qemu-img convert, with --image-opts and the secret, to a plain qcow2"},
	{func(f *qcow2File) bool { return f.Snapshots != 0 },
		"it holds internal snapshots, which would hand earlier contents of the disk to every clone",
		"leave them behind: qemu-img convert -O qcow2 OLD NEW"},
	{func(f *qcow2File) bool { return f.Incompatible&incompatCorrupt != 0 },
		"it is marked corrupt", remedyRepair},
	{func(f *qcow2File) bool { return f.Incompatible&incompatDirty != 0 },
		"it was not closed cleanly, or is still in use", "shut its machine down, then qemu-img check -r all FILE"},
	{func(f *qcow2File) bool { return f.Incompatible&^incompatKnown != 0 },
		"it needs a qcow2 feature that is not known here", remedyNewer},
	{func(f *qcow2File) bool { return f.compression > 1 || f.badCompression() },
		"it names an unknown compression type", remedyNewer},
	{func(f *qcow2File) bool { return f.ClusterBits < 9 || f.ClusterBits > 21 },
		"its cluster size is not between 512 bytes and 2 MiB", remedyTransfer},
	{func(f *qcow2File) bool { return f.RefcountOrder > 6 },
		"its reference counts are wider than 64 bits", remedyTransfer},
	{func(f *qcow2File) bool { return f.Size == 0 || f.Size%512 != 0 },
		"its virtual disk is empty or not a multiple of 512 bytes", "resize it: qemu-img resize FILE SIZE"},
	{func(f *qcow2File) bool { return f.Size > maxVirtual },
		"its virtual disk is larger than 2 TiB", "make it smaller: qemu-img resize --shrink FILE SIZE"},
	{func(f *qcow2File) bool { return uint64(f.L1Entries) < f.wantL1() || uint64(f.L1Entries)*8 > maxL1Bytes },
		"its L1 table does not fit its virtual disk", remedyTransfer},
	{func(f *qcow2File) bool { return f.outside(f.L1Offset, uint64(f.L1Entries)*8) },
		"its L1 table lies outside the file", remedyTransfer},
	{func(f *qcow2File) bool {
		return f.RefcountChunks == 0 || uint64(f.RefcountChunks)<<f.ClusterBits > maxRefcountTab
	}, "its refcount table has an impossible size", remedyTransfer},
	{func(f *qcow2File) bool { return f.outside(f.RefcountOffset, uint64(f.RefcountChunks)<<f.ClusterBits) },
		"its refcount table lies outside the file", remedyTransfer},
}

// parseQcow2 reads a header of untrusted bytes and judges it. It reads no more than the first cluster.
// What it accepts is self-contained, unencrypted, closed cleanly and at most 2 TiB; an error is a *BadImage, or
// what reading gave.
func parseQcow2(r io.ReaderAt, fileBytes int64) (*qcow2Header, error) {
	f := &qcow2File{fileBytes: uint64(fileBytes), extensions: map[uint32]bool{}}
	head := make([]byte, 4096)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	if !bytes.HasPrefix(head, []byte(qcow2Magic)) {
		return nil, refuse("give a qcow2 or raw disk", "it is not a qcow2 file")
	}
	if n < qcow2V2Length {
		return nil, refuse(remedyTransfer, "it ends within its qcow2 header")
	}
	if err := f.readHeader(head); err != nil {
		return nil, err
	}
	if err := f.readExtensions(r); err != nil {
		return nil, err
	}
	for _, rule := range qcow2Rules {
		if rule.bad(f) {
			return nil, &BadImage{Fault: rule.fault, Remedy: rule.remedy}
		}
	}
	return &f.qcow2Header, nil
}

// readHeader takes the fields apart. Version 2 has none of the later ones; its values for them are fixed.
func (f *qcow2File) readHeader(head []byte) error {
	padded := make([]byte, qcow2V3Length)
	copy(padded, head)
	if _, err := binary.Decode(padded, binary.BigEndian, &f.qcow2Header); err != nil {
		return err
	}
	switch {
	case f.Version == 2:
		f.Incompatible, f.Compatible, f.Autoclear, f.RefcountOrder, f.HeaderLength = 0, 0, 0, 4, qcow2V2Length
	case f.Version != 3:
		return refuse(remedyNewer, "it is qcow version %d; 2 and 3 are known", f.Version)
	case len(head) < qcow2V3Length:
		return refuse(remedyTransfer, "it ends within its qcow2 header")
	case f.HeaderLength < qcow2V3Length || f.HeaderLength%8 != 0:
		return refuse(remedyTransfer, "its header has the impossible length %d", f.HeaderLength)
	case f.HeaderLength > qcow2V3Length && len(head) > qcow2V3Length:
		f.compression = head[qcow2V3Length]
	}
	return nil
}

// readExtensions walks the header extensions, which end with type 0 and must lie in the first cluster.
func (f *qcow2File) readExtensions(r io.ReaderAt) error {
	if f.ClusterBits < 9 || f.ClusterBits > 21 {
		return nil // refused by the rules
	}
	end := min(uint64(1)<<f.ClusterBits, f.fileBytes)
	if f.BackingOffset != 0 {
		return nil // refused by the rules; the extensions may end where its name begins
	}
	at := uint64(f.HeaderLength)
	for at+8 <= end {
		var e [8]byte
		if _, err := r.ReadAt(e[:], int64(at)); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(e[:4]), uint64(binary.BigEndian.Uint32(e[4:]))
		if kind == extEnd {
			return nil
		}
		f.extensions[kind] = true
		at += 8 + (length+7)&^7
	}
	if at == end && end == uint64(1)<<f.ClusterBits {
		return nil // filled to the brim, as the format allows
	}
	return refuse(remedyTransfer, "its header extensions reach past its first cluster")
}

// badCompression holds the format's own rule: the type is zlib exactly when the feature bit is not set.
func (f *qcow2File) badCompression() bool {
	return (f.Incompatible&incompatCompression != 0) != (f.compression != 0)
}

// wantL1 is how many L1 entries the virtual size needs. An entry covers one L2 table, which is one cluster of
// 8-byte entries, or of 16-byte ones with extended L2.
func (f *qcow2File) wantL1() uint64 {
	bits := 2*f.ClusterBits - 3
	if f.Incompatible&incompatExtendedL2 != 0 {
		bits--
	}
	return (f.Size + 1<<bits - 1) >> bits
}

// outside says whether a table is not on a cluster boundary, overlaps the header, or ends after the file.
func (f *qcow2File) outside(offset, length uint64) bool {
	cluster := uint64(1) << f.ClusterBits
	return offset < cluster || offset%cluster != 0 || offset > f.fileBytes || length > f.fileBytes-offset
}
