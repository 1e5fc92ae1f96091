package imagestore

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// A raw disk has no header of its own, so its partition table must vouch for it: it says how long the disk
// ought to be, and so tells a whole disk from one that was cut short, or from a file that is no disk at all.
const (
	sector        = 512
	mbrSignature  = "\x55\xaa"
	mbrTable      = 446
	mbrProtective = 0xEE
	gptSignature  = "EFI PART"
	gptMaxEntries = 4096

	remedyBootable = "give a bootable disk with a partition table (MBR or GPT)"
	remedyGPT      = "repair the table with sgdisk or fdisk, or copy the file again"
)

// mbrEntry is one of the four entries of a master boot record.
type mbrEntry struct {
	Status  uint8 // 0x80 for the active one, else 0
	_       [3]byte
	Kind    uint8 // 0 for an unused entry
	_       [3]byte
	Start   uint32
	Sectors uint32
}

// gptHeader is a GPT header, as UEFI 2.10 section 5.3.2 has it. All numbers are little-endian.
type gptHeader struct {
	Signature   [8]byte
	Revision    uint32
	Length      uint32
	CRC         uint32
	_           uint32
	Self        uint64
	Other       uint64
	FirstUsable uint64
	LastUsable  uint64
	Disk        [16]byte
	Table       uint64
	Entries     uint32
	EntryBytes  uint32
	TableCRC    uint32
}

// checkPartitions refuses a raw disk that has no partition table, or one that does not fit the file.
func checkPartitions(r io.ReaderAt, size int64) error {
	if size < 2*sector || size%sector != 0 {
		return refuse("pad or copy it again: a raw disk is a multiple of 512 bytes", "it is %d bytes long", size)
	}
	if size > maxVirtual {
		return refuse("make it smaller, or convert it to qcow2 after shrinking", "it is larger than 2 TiB")
	}
	var boot [sector]byte
	if _, err := r.ReadAt(boot[:], 0); err != nil {
		return err
	}
	if string(boot[510:]) != mbrSignature {
		return refuseUnbootable(r)
	}
	var entries [4]mbrEntry
	if _, err := binary.Decode(boot[mbrTable:510], binary.LittleEndian, &entries); err != nil {
		return err
	}
	used, protective := 0, false
	for i, e := range entries {
		if e.Kind == 0 {
			continue
		}
		used++
		if e.Status&0x7f != 0 {
			return refuse(remedyBootable, "its boot sector holds no partition table (entry %d has status %#x)", i+1, e.Status)
		}
		if e.Kind == mbrProtective {
			protective = true // its length is often written as "all there is": the GPT says more
			continue
		}
		if e.Sectors == 0 {
			return refuse(remedyBootable, "partition %d has no length", i+1)
		}
		if end := (int64(e.Start) + int64(e.Sectors)) * sector; end > size {
			return refuse("the file was cut short or its table is wrong: compare it with its source and copy it again",
				"partition %d ends at byte %d, but the file has only %d", i+1, end, size)
		}
	}
	if used == 0 {
		return refuse(remedyBootable, "its partition table is empty")
	}
	if protective {
		return checkGPT(r, size)
	}
	return nil
}

// refuseUnbootable names the most likely mistake behind a missing boot signature.
func refuseUnbootable(r io.ReaderAt) error {
	for _, k := range []struct {
		offset int64
		magic  string
		fault  string
	}{
		{32769, "CD001", "it is a CD image without a boot sector for disks"},
		{1080, "\x53\xef", "it is a bare ext file system without a partition table"},
		{0, "XFSB", "it is a bare XFS file system without a partition table"},
		{0x10040, "_BHRfS_M", "it is a bare btrfs file system without a partition table"},
	} {
		is, err := hasAt(r, k.offset, k.magic)
		if err != nil {
			return err
		}
		if is {
			return &BadImage{Fault: k.fault, Remedy: remedyBootable}
		}
	}
	return refuse(remedyBootable, "it is no disk: it lacks the boot signature 55 AA at byte 510")
}

// checkGPT holds the primary table against the file, and the backup against the primary. A backup before the
// end of the disk is accepted: the disk was enlarged, and guests move it on their first boot.
func checkGPT(r io.ReaderAt, size int64) error {
	primary, err := readGPT(r, 1, size, "its GPT")
	if err != nil {
		return err
	}
	if primary.Other >= uint64(size/sector) || primary.LastUsable >= uint64(size/sector) {
		return refuse("the file was cut short: compare it with its source and copy it again",
			"its GPT speaks of sector %d, but the file has only %d", max(primary.Other, primary.LastUsable), size/sector)
	}
	backup, err := readGPT(r, primary.Other, size, "the backup of its GPT")
	if err != nil {
		return err
	}
	if backup.Disk != primary.Disk || backup.TableCRC != primary.TableCRC {
		return refuse(remedyGPT, "its GPT and the backup of it differ")
	}
	return nil
}

// readGPT reads a header and its table at a sector, and checks all that can be checked within it.
func readGPT(r io.ReaderAt, lba uint64, size int64, what string) (h gptHeader, err error) {
	var block [sector]byte
	if _, err := r.ReadAt(block[:], int64(lba)*sector); err != nil {
		return h, refuse(remedyGPT, "%s cannot be read", what)
	}
	n, err := binary.Decode(block[:], binary.LittleEndian, &h)
	if err != nil {
		return h, err
	}
	if string(h.Signature[:]) != gptSignature || h.Length < uint32(n) || h.Length > sector || h.Self != lba {
		return h, refuse(remedyGPT, "%s is missing or damaged", what)
	}
	clear(block[16:20]) // the checksum covers the header with its own field zero
	if crc32.ChecksumIEEE(block[:h.Length]) != h.CRC {
		return h, refuse(remedyGPT, "%s has a wrong checksum", what)
	}
	if h.Entries == 0 || h.Entries > gptMaxEntries || h.EntryBytes < 128 || h.EntryBytes > sector || h.EntryBytes%128 != 0 {
		return h, refuse(remedyGPT, "%s has %d entries of %d bytes", what, h.Entries, h.EntryBytes)
	}
	length := int64(h.Entries) * int64(h.EntryBytes)
	if h.Table < 2 || h.Table > uint64(size/sector) || int64(h.Table)*sector+length > size {
		return h, refuse(remedyGPT, "the table of %s lies outside the file", what)
	}
	table := make([]byte, length)
	if _, err := r.ReadAt(table, int64(h.Table)*sector); err != nil {
		return h, err
	}
	if crc32.ChecksumIEEE(table) != h.TableCRC {
		return h, refuse(remedyGPT, "the table of %s has a wrong checksum", what)
	}
	return h, checkGPTEntries(table, h, what)
}

// checkGPTEntries wants at least one partition, each within the part of the disk that the header offers.
func checkGPTEntries(table []byte, h gptHeader, what string) error {
	used := 0
	var unused [16]byte
	for at := 0; at < len(table); at += int(h.EntryBytes) {
		entry := table[at : at+int(h.EntryBytes)]
		if bytes.Equal(entry[:16], unused[:]) {
			continue
		}
		used++
		first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
		if first > last || last > h.LastUsable {
			return refuse(remedyGPT, "a partition of %s lies outside the disk", what)
		}
	}
	if used == 0 {
		return refuse(remedyBootable, "%s has no partition", what)
	}
	return nil
}
