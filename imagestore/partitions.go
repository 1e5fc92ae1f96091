package imagestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// partition is a piece of a raw disk.
type partition struct {
	start, length int64 // in bytes
	kind          string
}

// The kinds of partitions whose contents are a boot loader's.
const (
	kindOther = "other"
	kindESP   = "EFI system"
	kindBoot  = "boot loader"

	maxLogical = 128
)

var (
	mbrKinds = map[byte]string{0xEF: kindESP, 0x41: kindBoot}
	gptKinds = map[string]string{ // as on disk: the first three fields are little-endian
		"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b": kindESP,
		"Hah!IdontNeedEFI": kindBoot,
		"\x38\x2d\x1a\x9e\x12\xc6\x16\x43\xaa\x26\x8b\x49\x52\x1e\x5a\x8b": kindBoot, // PReP
	}
	mbrExtended = []byte{0x05, 0x0f, 0x85}
)

// partitions lists the partitions of a raw disk, logical ones too. What it accepts passed checkPartitions, and lies
// within the disk; an error is a *BadImage, or what reading gave.
func partitions(r io.ReaderAt, size int64) ([]partition, error) {
	if err := checkPartitions(r, size); err != nil {
		return nil, err
	}
	entries, err := readMBR(r, 0)
	if err != nil {
		return nil, err
	}
	var all []partition
	for _, e := range entries {
		switch {
		case e.Kind == mbrProtective:
			return gptPartitions(r, size)
		case slices.Contains(mbrExtended, e.Kind):
			logical, err := logicalPartitions(r, int64(e.Start), size)
			if err != nil {
				return nil, err
			}
			all = append(all, logical...)
		case e.Kind != 0:
			all = append(all, e.partition(0))
		}
	}
	for _, p := range all {
		if p.start <= 0 || p.length <= 0 || p.start > size || p.length > size-p.start {
			return nil, refuse(remedyBootable, "its partition table names a piece that lies outside of it")
		}
	}
	return all, nil
}

// partition is what an entry says, with its start counted from a sector.
func (e mbrEntry) partition(from int64) partition {
	p := partition{start: (from + int64(e.Start)) * sector, length: int64(e.Sectors) * sector, kind: kindOther}
	if k, ok := mbrKinds[e.Kind]; ok {
		p.kind = k
	}
	return p
}

// readMBR reads the table of a boot sector, or of one that begins a logical partition.
func readMBR(r io.ReaderAt, lba int64) (entries [4]mbrEntry, err error) {
	var boot [sector]byte
	if _, err := r.ReadAt(boot[:], lba*sector); err != nil {
		return entries, err
	}
	if string(boot[510:]) != mbrSignature {
		return entries, refuse(remedyBootable, "the table of its logical partitions is damaged")
	}
	_, err = binary.Decode(boot[mbrTable:510], binary.LittleEndian, &entries)
	return entries, err
}

// logicalPartitions follows the chain of an extended partition that begins at a sector: each link names one partition,
// counted from itself, and the next link, counted from the beginning. The links must go upwards, so that the chain
// ends.
func logicalPartitions(r io.ReaderAt, base, size int64) ([]partition, error) {
	var all []partition
	for at := base; ; {
		if at <= 0 || at >= size/sector || len(all) >= maxLogical {
			return nil, refuse(remedyBootable, "the table of its logical partitions is damaged")
		}
		entries, err := readMBR(r, at)
		if err != nil {
			return nil, err
		}
		if entries[0].Kind != 0 {
			all = append(all, entries[0].partition(at))
		}
		next := base + int64(entries[1].Start)
		switch {
		case entries[1].Kind == 0:
			return all, nil
		case next <= at:
			return nil, refuse(remedyBootable, "the table of its logical partitions goes round in circles")
		}
		at = next
	}
}

func gptPartitions(r io.ReaderAt, size int64) ([]partition, error) {
	h, err := readGPT(r, 1, size, "its GPT")
	if err != nil {
		return nil, err
	}
	table := make([]byte, int64(h.Entries)*int64(h.EntryBytes))
	if _, err := r.ReadAt(table, int64(h.Table)*sector); err != nil {
		return nil, err
	}
	var all []partition
	for entry := range slices.Chunk(table, int(h.EntryBytes)) {
		kind := string(entry[:16])
		if bytes.Equal(entry[:16], make([]byte, 16)) {
			continue
		}
		first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
		if first == 0 || first > last || last >= uint64(size/sector) {
			return nil, refuse(remedyGPT, "a partition of its GPT lies outside the disk")
		}
		p := partition{start: int64(first) * sector, length: int64(last-first+1) * sector, kind: kindOther}
		if k, ok := gptKinds[kind]; ok {
			p.kind = k
		}
		all = append(all, p)
	}
	return all, nil
}

// contents are what a partition can hold.
type contents string

const (
	holdsExt   contents = "ext"
	holdsSwap  contents = "swap"
	holdsFAT   contents = "FAT"
	holdsZeros contents = "nothing"
)

// signatures tell what is in a partition. The more particular come first: what lies around a file system is
// recognised before what it was made over.
var signatures = []struct {
	offset int64
	magic  string
	what   contents
}{
	{0, "LUKS\xba\xbe", "LUKS encryption"},
	{512, "LABELONE", "LVM"},
	{0, "LABELONE", "LVM"},
	{1024, "LABELONE", "LVM"},
	{1536, "LABELONE", "LVM"},
	{4096, "\xfc\x4e\x2b\xa9", "RAID"},
	{0, "\xfc\x4e\x2b\xa9", "RAID"},
	{0, "XFSB", "XFS"},
	{3, "NTFS    ", "NTFS"},
	{3, "-FVE-FS-", "BitLocker encryption"},
	{3, "EXFAT   ", "exFAT"},
	{1080, "\x53\xef", holdsExt},
	{4086, "SWAPSPACE2", holdsSwap},
	{0x10040, "_BHRfS_M", "btrfs"},
	{1024, "\x10\x20\xf5\xf2", "F2FS"},
	{0, "hsqs", "squashfs"},
	{54, "FAT", holdsFAT},
	{82, "FAT", holdsFAT},
}

// identifyContents says what a partition holds; "unknown data" if nothing is recognised.
func identifyContents(r zeroable, p partition) (contents, error) {
	in := io.NewSectionReader(r, p.start, p.length)
	for _, k := range signatures {
		is, err := hasAt(in, k.offset, k.magic)
		if err != nil {
			return "", err
		}
		if is {
			return k.what, nil
		}
	}
	zero, err := allZero(r, p)
	if err != nil || zero {
		return holdsZeros, err
	}
	return "unknown data", nil
}

// zeroable is a file that can say where its holes are.
type zeroable interface {
	io.ReaderAt
	io.Seeker
}

// allZero says whether nothing was ever written to a partition.
func allZero(r zeroable, p partition) (bool, error) {
	buf, end := make([]byte, sinkPiece), p.start+p.length
	for at := p.start; at < end; {
		data, hole, err := extent(r, at, end)
		if err != nil {
			return false, err
		}
		for at = max(at, data); at < hole; {
			piece := buf[:min(int64(len(buf)), hole-at)]
			if _, err := r.ReadAt(piece, at); err != nil {
				return false, err
			}
			if !bytes.Equal(piece, zeroPiece[:len(piece)]) {
				return false, nil
			}
			at += int64(len(piece))
		}
		at = hole
	}
	return true, nil
}

func (p partition) String() string { return fmt.Sprintf("the partition at byte %d", p.start) }
