package imagestore

import (
	"errors"
	"io"
)

const (
	remedyDecompress = "decompress it first"
	remedyConvert    = "convert it: qemu-img convert -O qcow2 OLD NEW"
	remedyUnpack     = "unpack it, and add the disk that is in it"
)

// foreign are the signatures of files that are not disks to take in. A negative offset counts from the end.
// QEMU recognises some of these too, but not all (a fixed VHD has its mark at the end only), and it does not
// know what to advise.
var foreign = []struct {
	offset int64
	magic  string
	fault  string
	remedy string
}{
	{0, "\x1f\x8b", "it is compressed with gzip", remedyDecompress},
	{0, "\xfd7zXZ\x00", "it is compressed with xz", remedyDecompress},
	{0, "\x28\xb5\x2f\xfd", "it is compressed with zstd", remedyDecompress},
	{0, "BZh", "it is compressed with bzip2", remedyDecompress},
	{0, "\x04\x22\x4d\x18", "it is compressed with lz4", remedyDecompress},
	{0, "PK\x03\x04", "it is a zip archive", remedyUnpack},
	{0, "7z\xbc\xaf\x27\x1c", "it is a 7z archive", remedyUnpack},
	{257, "ustar", "it is a tar or OVA archive", remedyUnpack},
	{0, "KDMV", "it is a VMDK disk", remedyConvert},
	{0, "COWD", "it is a VMDK disk", remedyConvert},
	{0, "# Disk DescriptorFile", "it is the description of a VMDK disk", remedyConvert},
	{64, "\x7f\x10\xda\xbe", "it is a VDI disk", remedyConvert},
	{0, "vhdxfile", "it is a VHDX disk", remedyConvert},
	{0, "conectix", "it is a VHD disk", remedyConvert},
	{-512, "conectix", "it is a VHD disk", remedyConvert},
	{0, "QED\x00", "it is a QED disk", remedyConvert},
	{0, "WithoutFreeSpace", "it is a Parallels disk", remedyConvert},
	{0, "WithouFreSpacExt", "it is a Parallels disk", remedyConvert},
	{0, "LUKS\xba\xbe", "it is encrypted with LUKS", "decrypt it first"},
	{-512, "koly", "it is an Apple disk image (DMG)", remedyConvert},
	{0, "Bochs Virtual HD Image", "it is a Bochs disk", remedyConvert},
	{0, "SQLite format 3", "it is a database", "give a bootable disk"},
	{0, "\x7fELF", "it is a program", "give a bootable disk"},
}

// checkForeign refuses what bears the signature of another kind of file.
func checkForeign(r io.ReaderAt, size int64) error {
	for _, k := range foreign {
		at := k.offset
		if at < 0 {
			at += size
		}
		is, err := hasAt(r, at, k.magic)
		if err != nil {
			return err
		}
		if is {
			return &BadImage{Fault: k.fault, Remedy: k.remedy}
		}
	}
	return nil
}

// hasAt says whether the bytes at an offset are these; past the end they are not.
func hasAt(r io.ReaderAt, at int64, magic string) (bool, error) {
	if at < 0 {
		return false, nil
	}
	b := make([]byte, len(magic))
	if n, err := r.ReadAt(b, at); n < len(b) {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, err
	}
	return string(b) == magic, nil
}
