package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Image names the files of a built guest. Both disks have the same content.
type Image struct {
	Qcow2   string // path of the disk as qcow2, without backing file
	Raw     string // path of the disk as raw bytes
	KeyPath string // path of the ssh private key (ed25519, mode 0600) that root and dcuser let in
}

//go:embed *.go root
var builder embed.FS

// fingerprint tells one builder from another: it is the digest of its source.
func fingerprint() string {
	h := sha256.New()
	err := fs.WalkDir(builder, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := builder.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(b), b)
		return err
	})
	if err != nil {
		panic(err) // the files are part of the program
	}
	return hex.EncodeToString(h.Sum(nil))
}

// suffix tells the files of one kernel's guest from another's.
func (k Kernel) suffix() string {
	if k == Full {
		return "-full"
	}
	return ""
}

// stamp is the file that says what built the guest; it is written last.
func (k Kernel) stamp(dir string) string { return filepath.Join(dir, "stamp"+k.suffix()) }

func (k Kernel) imageIn(dir string) Image {
	return Image{
		Qcow2:   filepath.Join(dir, "guest"+k.suffix()+".qcow2"),
		Raw:     filepath.Join(dir, "guest"+k.suffix()+".raw"),
		KeyPath: filepath.Join(dir, "id_ed25519"),
	}
}

// Current returns the guest of that kernel in dir, and whether it is whole and as this builder would make it.
func Current(dir string, k Kernel) (Image, bool) {
	img := k.imageIn(dir)
	stamp, err := os.ReadFile(k.stamp(dir))
	if err != nil || string(stamp) != fingerprint() {
		return img, false
	}
	for _, path := range []string{img.Qcow2, img.Raw, img.KeyPath} {
		if _, err := os.Stat(path); err != nil {
			return img, false
		}
	}
	return img, true
}

// Ensure returns the guest of that kernel in dir and builds it if it is not current. Several callers at once build it once.
// A build that fails or is killed leaves the old guest, or none, and the next call tries again.
func Ensure(ctx context.Context, dir string, k Kernel) (Image, error) {
	if img, ok := Current(dir, k); ok {
		return img, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, fmt.Errorf("guest: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return Image{}, fmt.Errorf("guest: %w", err)
	}
	defer unlock()
	if img, ok := Current(dir, k); ok {
		return img, nil
	}
	if err := k.build(ctx, dir); err != nil {
		return Image{}, fmt.Errorf("guest: %w", err)
	}
	return k.imageIn(dir), nil
}

// lock waits for the file's lock, which the kernel frees with its holder.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
