package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var (
	// diskModules find and read the disk; the initramfs loads those that the kernel does not have built in.
	diskModules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}
	// bootModules are loaded by root/etc/rc. lazyModules wait for modprobe.
	bootModules = []string{"virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "button", "evdev", "qemu_fw_cfg"}
	lazyModules = []string{"8021q", "macvlan", "tun", "virtio_scsi", "sd_mod", "overlay"}
)

// kernelModules are the modules of one kernel: their files by name, and its version.
type kernelModules struct {
	version string
	dir     string            // holds kernel/...
	files   map[string]string // virtio_net -> kernel/drivers/net/virtio_net.ko
	builtin map[string]bool   // by name, those that are part of the kernel
}

func findModules(unpacked string) (*kernelModules, error) {
	dirs, err := filepath.Glob(filepath.Join(unpacked, "lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%d kernels unpacked, want 1", len(dirs)))
	}
	k := &kernelModules{version: filepath.Base(dirs[0]), dir: dirs[0], files: map[string]string{}, builtin: map[string]bool{}}
	list, err := os.ReadFile(filepath.Join(k.dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		name, _ := strings.CutSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
		k.builtin[canonical(name)] = true
	}
	err = filepath.WalkDir(k.dir, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			k.files[canonical(name)], err = filepath.Rel(k.dir, path)
		}
		return err
	})
	return k, err
}

// canonical spells a module's name as the kernel does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// toLoad leaves out of a list what the kernel has built in.
func (k *kernelModules) toLoad(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return k.builtin[canonical(n)] })
}

// install copies the named modules, and those they need, below root, with the modules.dep that modprobe reads.
func (k *kernelModules) install(root string, names ...[]string) error {
	to := filepath.Join(root, "lib/modules", k.version)
	var deps strings.Builder
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		file, ok := k.files[name]
		if !ok {
			return fmt.Errorf("no module %s in kernel %s", name, k.version)
		}
		needs, err := moduleNeeds(filepath.Join(k.dir, file))
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		fmt.Fprintf(&deps, "%s:", file)
		for _, n := range k.order(needs) {
			fmt.Fprintf(&deps, " %s", n)
		}
		deps.WriteByte('\n')
		return copyFile(filepath.Join(k.dir, file), filepath.Join(to, file), 0o644)
	}
	for _, list := range names {
		for _, n := range k.toLoad(list) {
			if err := add(canonical(n)); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(to, "modules.dep"), []byte(deps.String()), 0o644)
}

// order returns the files of modules and of all they need in turn, those that are loaded last first, as modules.dep
// has them.
func (k *kernelModules) order(names []string) []string {
	var out []string
	seen := map[string]bool{}
	var visit func(names []string)
	visit = func(names []string) {
		for _, n := range names {
			if seen[n] {
				continue
			}
			seen[n] = true
			needs, err := moduleNeeds(filepath.Join(k.dir, k.files[n]))
			if err == nil { // install has read it before
				visit(needs)
			}
			out = append([]string{k.files[n]}, out...)
		}
	}
	visit(names)
	return out
}

// moduleNeeds reads the names of the modules that a module needs from its .modinfo: NUL-separated KEY=VALUE.
func moduleNeeds(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok && len(list) > 0 {
			var needs []string
			for n := range strings.SplitSeq(string(list), ",") {
				needs = append(needs, canonical(n))
			}
			return needs, nil
		}
	}
	return nil, nil
}
