package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

const (
	sector    = 512
	diskBytes = 128 << 20
	partStart = 1 << 20 // bytes; the gap before it holds GRUB
	rootLabel = "capsule-root"

	// The boot sector: code up to bootCode, then the partition table.
	bootCode  = 440
	partTable = 446
	linuxPart = 0x83

	// diskboot.img, the first sector of GRUB's core, ends in a list of where the rest lies: start (8 bytes), sectors
	// (2 bytes), segment (2 bytes).
	blockList = 500
)

// grubModules are what it takes to read a kernel from ext4 behind an MBR.
var grubModules = []string{"biosdisk", "part_msdos", "ext2", "normal", "linux", "serial", "terminal", "boot", "configfile"}

// features of ext4 that every GRUB reads, named one by one because mke2fs' defaults grow.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,extra_isize"

// makeDisk writes the tree to a bootable disk, in raw and in qcow2 form.
func makeDisk(ctx context.Context, work, root, unpacked string) (Image, error) {
	img := Cloud.imageIn(work)
	if err := copyFile(filepath.Join(root, "etc/grub.cfg"), filepath.Join(root, "boot/grub/grub.cfg"), 0o644); err != nil {
		return img, err
	}
	if err := errors.Join(os.WriteFile(img.Raw, nil, 0o644), os.Truncate(img.Raw, diskBytes)); err != nil {
		return img, err
	}
	_, err := run(ctx, work, "mke2fs", "-q", "-t", "ext4", "-O", features, "-L", rootLabel, "-J", "size=4", "-m", "0",
		"-E", fmt.Sprintf("offset=%d,root_owner=0:0,lazy_itable_init=0", partStart), "-d", root,
		img.Raw, strconv.Itoa((diskBytes-partStart)/1024)+"k")
	if err != nil {
		return img, err
	}
	if err := installGRUB(ctx, work, unpacked, img.Raw); err != nil {
		return img, fmt.Errorf("grub: %w", err)
	}
	_, err = run(ctx, work, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", img.Raw, img.Qcow2)
	return img, err
}

// installGRUB writes boot sector, partition table and GRUB's core to the start of the disk.
func installGRUB(ctx context.Context, work, unpacked, disk string) error {
	lib := filepath.Join(unpacked, "usr/lib/grub/i386-pc")
	core := filepath.Join(work, "core.img")
	args := []string{
		filepath.Join(unpacked, "usr/bin/grub-mkimage"), "-d", lib, "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core,
	}
	if _, err := run(ctx, work, append(args, grubModules...)...); err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(lib, "boot.img"))
	if err != nil {
		return err
	}
	body, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	if len(boot) != sector || len(body) < sector || len(body) > partStart-sector {
		return fmt.Errorf("boot sector of %d bytes, core of %d do not fit", len(boot), len(body))
	}
	head := append(boot[:bootCode:bootCode], make([]byte, sector-bootCode)...)
	entry := head[partTable:]
	entry[0], entry[4] = 0x80, linuxPart // active
	// Cylinders, heads and sectors beyond what they can say; everyone reads the block numbers.
	copy(entry[1:4], []byte{0xfe, 0xff, 0xff})
	copy(entry[5:8], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], partStart/sector)
	binary.LittleEndian.PutUint32(entry[12:], (diskBytes-partStart)/sector)
	head[510], head[511] = 0x55, 0xaa

	// boot.img reads block 1 as it comes; the list there leads on to block 2.
	binary.LittleEndian.PutUint64(body[blockList:], 2)
	binary.LittleEndian.PutUint16(body[blockList+8:], uint16((len(body)+sector-1)/sector-1))

	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(head, body...), 0)
	return errors.Join(err, f.Sync(), f.Close())
}
