// Package guest builds the machine that tests boot: a small Linux on a disk of its own, from Debian packages that
// are fetched and unpacked but never installed. No loop device, no mount, no chroot.
//
// The disk: an MBR with GRUB in the gap behind it, and one ext4 partition with Debian's cloud kernel, an
// initramfs of busybox and the modules that find the disk, and a root of busybox, dropbear and
// qemu-guest-agent. See root/ for what it does when it boots.
//
// [Ensure] is safe to call from any number of processes and does nothing when the guest is as the builder would
// make it. It needs root, because mke2fs copies owners, and the network the first time.
package guest
