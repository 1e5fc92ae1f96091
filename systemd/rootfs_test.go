package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rootfsPackages make a Debian system like a host's: what it boots with, and what capsuled's own package asks for.
var rootfsPackages = []string{
	"systemd", "systemd-sysv", "systemd-container", "dbus", "iproute2", "procps", "kmod",
	"libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "dnsmasq-base",
	"iptables", "nftables", "conntrack", "e2fsprogs", "openssh-client",
}

// Paths below build/, from this directory. They are made outside of the test host, which has no network.
const (
	rootfsDir = "../build/systemd-rootfs"
	binDir    = "../build/systemd-bin"
)

// programs are what the machine gets into /usr/bin, and where they are built from.
var programs = map[string]string{
	"capsuled":   "../cmd/capsuled",
	"capsulectl": "../cmd/capsulectl",
}

// prepare leaves the root file system and the programs in build/. It is quick when nothing changed, and safe when
// several test processes do it at the same time.
func prepare(ctx context.Context) error {
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return err
	}
	lock, err := os.Create(binDir + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	for name, pkg := range programs {
		fresh := filepath.Join(binDir, name+".new")
		if _, err := output(ctx, 5*time.Minute, "go", "build", "-o", fresh, pkg); err != nil {
			return err
		}
		// A rename leaves a file alone that another process has bound into its machine.
		if err := os.Rename(fresh, filepath.Join(binDir, name)); err != nil {
			return err
		}
	}
	return makeRootfs(ctx)
}

// makeRootfs builds the root file system unless the one that is there was made from the same recipe.
func makeRootfs(ctx context.Context) error {
	codename, err := hostRelease()
	if err != nil {
		return err
	}
	recipe := codename + "\n" + strings.Join(rootfsPackages, "\n") + "\n"
	if have, err := os.ReadFile(rootfsDir + ".recipe"); err == nil && string(have) == recipe {
		return nil
	}
	sources, err := aptSources(ctx, codename)
	if err != nil {
		return err
	}
	options, err := aptOptions(ctx)
	if err != nil {
		return err
	}
	fresh := rootfsDir + ".new"
	for _, old := range []string{fresh, rootfsDir, rootfsDir + ".recipe"} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "systemd: making build/systemd-rootfs, once")
	// In namespaces of its own nothing it mounts can stay, and nothing it starts can outlive it.
	args := []string{"unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
		"mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--include=" + strings.Join(rootfsPackages, ",")}
	args = append(args, options...)
	args = append(args, codename, fresh)
	args = append(args, sources...)
	if _, err := output(ctx, 10*time.Minute, args...); err != nil {
		return err
	}
	if err := os.Rename(fresh, rootfsDir); err != nil {
		return err
	}
	return os.WriteFile(rootfsDir+".recipe", []byte(recipe), 0o644)
}

// hostRelease is this machine's Debian release: its sources and keys fit no other.
func hostRelease() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)"?$`).FindSubmatch(data)
	if m == nil {
		return "", fmt.Errorf("/etc/os-release has no VERSION_CODENAME: not Debian?")
	}
	return string(m[1]), nil
}

// aptSources are the machine's own apt sources for its release, as lines of a sources.list.
func aptSources(ctx context.Context, codename string) ([]string, error) {
	text, err := output(ctx, time.Minute, "apt-get", "indextargets",
		"--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 4 && (f[2] == codename || strings.HasPrefix(f[2], codename+"-")) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("apt has no source for %s: %q", codename, text)
	}
	slices.Sort(lines)
	return slices.Compact(lines), nil
}

// aptOptions are the machine's ways to get at its sources: proxies, retries, clocks that are wrong.
func aptOptions(ctx context.Context) ([]string, error) {
	text, err := output(ctx, time.Minute, "apt-config", "dump", "--no-empty", "--format", "%f \"%v\";%n", "Acquire")
	if err != nil {
		return nil, err
	}
	wanted := regexp.MustCompile(`^Acquire::(https?::[A-Za-z:-]*|Retries|Check-Valid-Until|Check-Date|ForceIPv[46]) "`)
	var opts []string
	for line := range strings.Lines(text) {
		if wanted.MatchString(line) {
			opts = append(opts, "--aptopt="+strings.TrimSpace(line))
		}
	}
	return opts, nil
}

// output runs a command and returns what it wrote to standard output; the error has what it wrote to the other.
func output(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
