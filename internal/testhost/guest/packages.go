package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kernel names the kernel of a guest by the package that depends on the current one.
type Kernel string

const (
	// Cloud has what a guest needs, and boots fastest.
	Cloud Kernel = "linux-image-cloud-amd64"
	// Full also has the driver that reseeds the random numbers when the generation id of the machine changes
	// (CONFIG_VMGENID). It is compressed harder: under emulation it boots three seconds slower.
	Full Kernel = "linux-image-amd64"
)

// packages are those of Debian 12 that the guest is made of: the boot loader, the programs, their libraries.
var packages = []string{
	"grub-pc-bin", "grub-common",
	"busybox-static", "dropbear-bin", "qemu-guest-agent",
	"libc6", "libcrypt1", "libtomcrypt1", "libtommath1", "libgmp10", "zlib1g",
	"libglib2.0-0", "libpcre2-8-0", "libnuma1", "libudev1", "liburing2",
}

// fetch downloads the packages into cache, where they are not there already, and unpacks them into a directory of
// work, which it returns.
func (k Kernel) fetch(ctx context.Context, cache, work string) (string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	names, missing, err := k.wanted(ctx, cache)
	if err != nil || len(missing) > 0 {
		// The lists may be absent or too old to name a version that the archive still has.
		if err = k.download(ctx, cache, missing, err); err != nil {
			return "", err
		}
		if names, missing, err = k.wanted(ctx, cache); err != nil {
			return "", err
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("packages not there after download: %v", missing)
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return "", err
	}
	for _, n := range names {
		debs, err := filepath.Glob(filepath.Join(cache, n+"_*.deb"))
		if err != nil || len(debs) == 0 {
			return "", errors.Join(err, fmt.Errorf("package %s vanished", n))
		}
		if _, err := run(ctx, work, "dpkg-deb", "-x", debs[len(debs)-1], unpacked); err != nil {
			return "", err
		}
	}
	return unpacked, nil
}

// wanted returns the names of all packages, and of those that cache lacks.
func (k Kernel) wanted(ctx context.Context, cache string) (names, missing []string, err error) {
	out, err := run(ctx, cache, "apt-cache", "depends", string(k))
	if err != nil {
		return nil, nil, err
	}
	names = packages
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Depends:" && strings.HasPrefix(f[1], "linux-image-") {
			names = append([]string{f[1]}, packages...)
			break
		}
	}
	if len(names) == len(packages) {
		return nil, nil, fmt.Errorf("%s depends on no kernel", k)
	}
	for _, n := range names {
		if debs, err := filepath.Glob(filepath.Join(cache, n+"_*.deb")); err != nil || len(debs) == 0 {
			missing = append(missing, n)
		}
	}
	return names, missing, nil
}

// download fetches the missing packages, with the package lists as they are if they serve, else with new ones.
// unknown says why the lists do not even name the packages.
func (k Kernel) download(ctx context.Context, cache string, missing []string, unknown error) error {
	// As root: apt's own user may not write here.
	args := []string{"apt-get", "-q", "-o", "APT::Sandbox::User=root"}
	get := func(names []string) error {
		_, err := run(ctx, cache, append(append(args[:len(args):len(args)], "download"), names...)...)
		return err
	}
	if unknown == nil && get(missing) == nil {
		return nil
	}
	if _, err := run(ctx, cache, append(args[:len(args):len(args)], "update")...); err != nil {
		return errors.Join(unknown, err)
	}
	_, missing, err := k.wanted(ctx, cache)
	if err != nil {
		return err
	}
	return get(missing)
}
