package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const dcuser = 1000 // the uid and gid in root/etc/passwd

// guestPrograms are copied from the unpacked packages, with the libraries they need.
var guestPrograms = []string{"usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/sbin/qemu-ga"}

// guestDirs exist in the guest though no file of root/ makes them.
var guestDirs = []string{
	"bin", "boot/grub", "dev", "etc/dropbear", "home/dcuser", "lib64", "media", "proc", "root", "run", "sys", "tmp",
	"usr/bin", "usr/sbin", "var/lib", "var/log",
}

// makeRoot makes the guest's file tree.
func makeRoot(ctx context.Context, root, unpacked string, key []byte) error {
	for _, d := range guestDirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyOwnFiles(root); err != nil {
		return err
	}
	if err := installBusybox(ctx, root, unpacked); err != nil {
		return err
	}
	for _, p := range guestPrograms {
		if err := installProgram(root, unpacked, p); err != nil {
			return err
		}
	}
	modules, err := findModules(unpacked)
	if err != nil {
		return err
	}
	if err := modules.install(root, diskModules, bootModules, lazyModules); err != nil {
		return err
	}
	if err := writeLines(filepath.Join(root, "etc/modules"), bootModules); err != nil {
		return err
	}
	if err := installKernel(root, unpacked, modules); err != nil {
		return err
	}
	return errors.Join(
		os.Symlink("/run/resolv.conf", filepath.Join(root, "etc/resolv.conf")),
		authorize(filepath.Join(root, "root"), 0, key),
		authorize(filepath.Join(root, "home/dcuser"), dcuser, key),
	)
}

// copyOwnFiles copies root/; scripts are executable.
func copyOwnFiles(root string) error {
	return fs.WalkDir(builder, "root", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := builder.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(b, []byte("#!")) {
			mode = 0o755
		}
		to := filepath.Join(root, strings.TrimPrefix(path, "root"))
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, mode))
	})
}

func installBusybox(ctx context.Context, root, unpacked string) error {
	busybox := filepath.Join(root, "bin/busybox")
	if err := copyFile(filepath.Join(unpacked, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	applets, err := run(ctx, root, busybox, "--list")
	if err != nil {
		return err
	}
	for a := range strings.FieldsSeq(string(applets)) {
		err := os.Symlink("/bin/busybox", filepath.Join(root, "bin", a))
		if err != nil && !errors.Is(err, fs.ErrExist) { // its own name
			return err
		}
	}
	// The guest agent runs these by their paths in Debian; without hwclock it does not offer to set the clock.
	return errors.Join(
		os.Symlink("/bin/busybox", filepath.Join(root, "sbin/init")),
		os.Symlink("/bin/busybox", filepath.Join(root, "sbin/hwclock")),
	)
}

// installProgram copies a program and, once each, the libraries it needs.
func installProgram(root, unpacked, path string) error {
	if err := copyFile(filepath.Join(unpacked, path), filepath.Join(root, path), 0o755); err != nil {
		return err
	}
	const loader = "ld-linux-x86-64.so.2"
	if err := installLibraries(root, unpacked, filepath.Join(root, path)); err != nil {
		return err
	}
	err := os.Symlink("/lib/x86_64-linux-gnu/"+loader, filepath.Join(root, "lib64", loader))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return installLibrary(root, unpacked, loader)
}

func installLibraries(root, unpacked, program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := installLibrary(root, unpacked, n); err != nil {
			return err
		}
	}
	return nil
}

func installLibrary(root, unpacked, name string) error {
	to := filepath.Join(root, "lib/x86_64-linux-gnu", name)
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	for _, dir := range []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"} {
		err := copyFile(filepath.Join(unpacked, dir, name), to, 0o755)
		if err == nil {
			return installLibraries(root, unpacked, to)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("no package brings %s", name)
}

// installKernel puts kernel and initramfs into /boot.
func installKernel(root, unpacked string, modules *kernelModules) error {
	err := copyFile(filepath.Join(unpacked, "boot/vmlinuz-"+modules.version), filepath.Join(root, "boot/vmlinuz"), 0o644)
	if err != nil {
		return err
	}
	tree := root + "-initramfs"
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(root, "bin/busybox"), filepath.Join(tree, "bin/busybox"), 0o755); err != nil {
		return err
	}
	if err := modules.install(tree, diskModules); err != nil {
		return err
	}
	if err := writeLines(filepath.Join(tree, "etc/modules"), modules.toLoad(diskModules)); err != nil {
		return err
	}
	script, err := builder.ReadFile("root/etc/initramfs")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "init"), script, 0o755); err != nil {
		return err
	}
	// Uncompressed: under emulation it is read faster than it is unpacked.
	out, err := os.Create(filepath.Join(root, "boot/initrd"))
	if err != nil {
		return err
	}
	return errors.Join(writeCPIO(out, tree), out.Close())
}

// authorize lets the key in; sshd insists on strict owners and modes.
func authorize(home string, uid int, key []byte) error {
	dir := filepath.Join(home, ".ssh")
	file := filepath.Join(dir, "authorized_keys")
	return errors.Join(
		os.Mkdir(dir, 0o700), os.WriteFile(file, key, 0o600), os.Chmod(home, 0o700),
		os.Chown(home, uid, uid), os.Chown(dir, uid, uid), os.Chown(file, uid, uid),
	)
}

func writeLines(path string, lines []string) error {
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// copyFile copies a file, following symbolic links, and makes the directories on the way.
func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
