package imagestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// Volume is an empty ext4 file system for a capsule's data.
type Volume struct {
	Name          string // file name and ext4 label: 1 to 16 of a-z, 0-9 and _, beginning with a letter; not "disk", "overlay", "clean"
	Bytes         int64  // size; a multiple of 4096 from 16 MiB to 2 TiB
	BytesPerInode int    // one inode for so many bytes; 0 for 16384
}

const (
	minVolume     = 16 << 20
	formatTimeout = 2 * time.Minute

	defaultPerInode = 16384
)

func (v Volume) check() error {
	if !namePattern.MatchString(v.Name) || v.Name == diskName || v.Name == overlayName || v.Name == ramName {
		return fmt.Errorf("%w: volume name %.80q", ErrInvalid, v.Name)
	}
	if v.Bytes < minVolume || v.Bytes > maxVirtual || v.Bytes%4096 != 0 {
		return fmt.Errorf("%w: volume %s of %d bytes: want a multiple of 4096 from 16 MiB to 2 TiB", ErrInvalid, v.Name, v.Bytes)
	}
	if n := v.BytesPerInode; n != 0 && (n < 1024 || n > 64<<20) { // the limits of mkfs.ext4
		return fmt.Errorf("%w: volume %s: %d bytes per inode", ErrInvalid, v.Name, n)
	}
	return nil
}

// template is the name of the file that clones of the volume are made of. It says all that was decided when it
// was formatted, so another decision is another template.
func (v Volume) template() string {
	return fmt.Sprintf("%s-%d-%d.%s", v.Name, v.Bytes, v.BytesPerInode, Raw)
}

// Prepare formats the templates that are missing. It is safe to call at each start: what is there stays, what
// an earlier call left half-made is replaced. Templates of other sizes stay too, for records that name them.
// ErrInvalid for a volume that cannot be, ErrExhausted if there is no room.
func (s *Store) Prepare(ctx context.Context, vs []Volume) error {
	s.prepare.Lock()
	defer s.prepare.Unlock()
	for _, v := range vs {
		if err := s.format(ctx, v); err != nil {
			return failed("prepare volume", fmt.Sprintf("%.80q", v.Name), err)
		}
	}
	return nil
}

func (s *Store) format(ctx context.Context, v Volume) (err error) {
	if err := errors.Join(ctx.Err(), v.check()); err != nil {
		return err
	}
	if f, err := s.templates.open(v.template()); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = f.Close()
		}
		return err
	}
	if err := s.room(ctx, v.Bytes/64); err != nil { // journal, bitmaps and group descriptors; the rest is a hole
		return err
	}
	partial := partialPrefix + v.template()
	if err := s.templates.remove(partial); err != nil {
		return err
	}
	f, err := s.templates.create(partial)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, s.templates.remove(partial))
		}
	}()
	if err := f.Truncate(v.Bytes); err != nil {
		return err
	}
	if err := mkfs(ctx, f, v); err != nil {
		return err
	}
	if err := errors.Join(s.own(f), f.Sync()); err != nil {
		return err
	}
	if err := s.templates.rename(partial, s.templates, v.template()); err != nil {
		return err
	}
	return s.templates.sync()
}

// mkfs formats a file of zeros.
func mkfs(ctx context.Context, f *os.File, v Volume) error {
	limited, cancel := context.WithTimeout(ctx, formatTimeout)
	defer cancel()
	args := []string{
		"-q", "-F", "-b", "4096", "-m", "0", "-L", v.Name,
		// Said here, since the defaults of mkfs.ext4 differ with the size of the file system.
		"-i", strconv.Itoa(cmp.Or(v.BytesPerInode, defaultPerInode)),
		// The two features that guests with a kernel older than 5.15 cannot mount.
		"-O", "^orphan_file,^metadata_csum_seed",
		// A hole reads as zeros: nothing has to be written for the inode tables, neither here nor, as with lazy
		// initialisation, by the guest after its first mount, which would fill every clone with written zeros.
		"-E", "root_owner=0:0,assume_storage_prezeroed=1,nodiscard",
	}
	cmd := exec.CommandContext(limited, "mkfs.ext4", append(args, "/proc/self/fd/3")...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.ExtraFiles = []*os.File{f}
	cmd.WaitDelay = time.Second
	var said bounded
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %.200s", errors.Join(ctx.Err(), err), said.bytes())
	}
	return nil
}

// CloneVolume gives the clone directory of key an empty volume, as [Store.Clone] gives it a disk: durable,
// idempotent, no bytes copied. ErrNotFound if v was not prepared.
func (s *Store) CloneVolume(ctx context.Context, key string, v Volume) (File, error) {
	if err := v.check(); err != nil {
		return File{}, failed("clone volume to", fmt.Sprintf("%.80q", key), err)
	}
	f, err := s.cloneAs(ctx, key, v.Name, func() (backing, error) {
		b, err := openBacking(s.templates, v.template(), Raw)
		if errors.Is(err, fs.ErrNotExist) {
			return b, fmt.Errorf("%w: template %s", ErrNotFound, v.template())
		}
		return b, err
	})
	if err != nil {
		return File{}, failed("clone volume "+v.Name+" to", fmt.Sprintf("%.80q", key), err)
	}
	return f, nil
}
