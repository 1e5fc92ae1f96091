package imagestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is an open directory. Every operation names one entry of it and none follows a symbolic link, so
// that whatever is planted below the store can only be reported or removed, never walked through.
type directory struct{ f *os.File }

// openDirectory opens the store's own top directory, whose path the operator chose.
func openDirectory(path string) (*directory, error) {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &directory{f}, nil
}

func (d *directory) close() error { return d.f.Close() }
func (d *directory) sync() error  { return d.f.Sync() }
func (d *directory) fd() int      { return int(d.f.Fd()) }

// path is for messages and for other programs; the package itself goes by descriptor.
func (d *directory) path(name string) string { return d.f.Name() + "/" + name }

// wrap names the entry in an error; a name with a slash would leave the directory and is a bug of ours.
func (d *directory) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.path(name), Err: err}
}

func (d *directory) openat(name string, flags int, mode uint32) (*os.File, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, d.wrap("open", name, unix.EINVAL)
	}
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.path(name)), nil
}

// at opens a directory below.
func (d *directory) at(name string) (*directory, error) {
	f, err := d.openat(name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &directory{f}, nil
}

// make opens a directory below, and makes it first if it is absent. Mode and group are set in any case.
func (d *directory) make(name string, mode os.FileMode, gid int) (sub *directory, created bool, err error) {
	err = unix.Mkdirat(d.fd(), name, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, false, d.wrap("mkdir", name, err)
	}
	created = err == nil
	if sub, err = d.at(name); err != nil {
		return nil, created, err
	}
	if err = errors.Join(sub.f.Chown(-1, gid), sub.f.Chmod(mode)); err != nil {
		sub.close()
		return nil, created, err
	}
	return sub, created, nil
}

// create makes a new, empty file that only root can open.
func (d *directory) create(name string) (*os.File, error) {
	return d.openat(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
}

// open opens a regular file for reading. Anything else is an error, and is not touched: O_NONBLOCK keeps a
// planted FIFO from holding us.
func (d *directory) open(name string) (*os.File, error) {
	f, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = d.wrap("open", name, fmt.Errorf("not a regular file but %v", info.Mode().Type()))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *directory) stat(name string) (st unix.Stat_t, err error) {
	err = d.wrap("stat", name, unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW))
	return st, err
}

func (d *directory) link(name string, to *directory, as string) error {
	return to.wrap("link", as, unix.Linkat(d.fd(), name, to.fd(), as, 0))
}

// rename moves an entry. It replaces nothing: fs.ErrExist if the new name is taken.
func (d *directory) rename(name string, to *directory, as string) error {
	return to.wrap("rename", as, unix.Renameat2(d.fd(), name, to.fd(), as, unix.RENAME_NOREPLACE))
}

// remove unlinks a file; absent is nil.
func (d *directory) remove(name string) error {
	if err := unix.Unlinkat(d.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return d.wrap("unlink", name, err)
	}
	return nil
}

// removeEmpty removes a directory that has nothing in it.
func (d *directory) removeEmpty(name string) error {
	return d.wrap("rmdir", name, unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR))
}

// removeAll removes a file or a whole directory, goes on after an error and joins what it met; absent is nil.
func (d *directory) removeAll(name string) error {
	if err := d.remove(name); !errors.Is(err, unix.EISDIR) {
		return err
	}
	sub, err := d.at(name)
	if err != nil {
		return err
	}
	names, err := sub.names()
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, sub.removeAll(n))
	}
	sub.close()
	return errors.Join(append(errs, d.removeEmpty(name))...)
}

// names lists the directory in no particular order.
func (d *directory) names() ([]string, error) {
	// Read through a descriptor of its own: the offset of ours is shared by all who use it.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", d.fd()), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
