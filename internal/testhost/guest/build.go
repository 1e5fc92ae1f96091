package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ReadyLine begins the line that the guest writes to its serial console when it has booted.
const ReadyLine = "CAPSULE-READY"

// programs the build runs, all of them part of any Debian but the last.
var programs = []string{"apt-get", "apt-cache", "dpkg-deb", "mke2fs", "qemu-img"}

// build makes the guest in a scratch directory of dir and moves its files to their places, the stamp last.
func (k Kernel) build(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("building needs root, because files in the disk keep their owners: sudo make guest")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("missing program (run internal/testhost/install-packages): %w", err)
		}
	}
	if err := k.sweep(dir); err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "work-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	key, err := ensureKey(filepath.Join(dir, "id_ed25519"))
	if err != nil {
		return fmt.Errorf("ssh key: %w", err)
	}
	unpacked, err := k.fetch(ctx, filepath.Join(dir, "packages"), work)
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	if err := makeRoot(ctx, root, unpacked, key); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	img, err := makeDisk(ctx, work, root, unpacked)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	final := k.imageIn(dir)
	return errors.Join(
		os.Rename(img.Raw, final.Raw),
		os.Rename(img.Qcow2, final.Qcow2),
		os.WriteFile(filepath.Join(work, "stamp"), []byte(fingerprint()), 0o644),
		os.Rename(filepath.Join(work, "stamp"), k.stamp(dir)),
	)
}

// sweep removes what killed builds have left; the caller holds the lock. The stamp goes first, so that a build
// killed between two renames is not taken for whole.
func (k Kernel) sweep(dir string) error {
	if err := os.Remove(k.stamp(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "work-*"))
	for _, w := range old {
		err = errors.Join(err, os.RemoveAll(w))
	}
	return err
}

// ensureKey returns the public key in authorized_keys form. An existing pair is kept, so that a guest that runs
// while its successor is built can still be reached.
func ensureKey(path string) ([]byte, error) {
	if public, err := os.ReadFile(path + ".pub"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return public, nil
		}
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "capsuled test guest")
	if err != nil {
		return nil, err
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(sshPublic)), " capsuled test guest\n"...)
	return line, errors.Join(os.WriteFile(path, pem.EncodeToMemory(block), 0o600), os.WriteFile(path+".pub", line, 0o644))
}

// buildTimeout bounds each command of the build; the longest is a download.
const buildTimeout = 10 * time.Minute

// run runs a command in dir and returns its standard output.
func run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
