package domain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// defaultLogDir is where libvirt's QEMU driver logs when it runs as root.
const defaultLogDir = "/var/log/libvirt/qemu"

// DropLog destroys libvirt's log of the domain of that name, and the older ones that virtlogd or logrotate has moved aside
// (NAME.log.0, NAME.log.2.gz, NAME.log-20250131): QEMU prints there, and some of what it prints its guest chooses. Call it when
// the domain has no process: virtlogd would write on, to a file without a name. Absent is nil, it is durable, and a call after
// a crash finishes what was begun. It asks nothing of libvirt. Blocks given back are not overwritten. ErrInvalid if name is
// not one that a file of the directory can begin with.
func (h *Host) DropLog(ctx context.Context, name string) error {
	what := fmt.Sprintf("drop log of %.80q", name)
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return wrap(what, fmt.Errorf("%w: want a domain's name", ErrInvalid))
	}
	if err := ctx.Err(); err != nil {
		return wrap(what, err)
	}
	dir, err := os.Open(h.opt.LogDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return wrap(what, err)
	}
	defer dir.Close()
	all, err := dir.Readdirnames(-1)
	errs, found := []error{err}, false
	for _, file := range all {
		if moved, is := strings.CutPrefix(file, name+".log"); is && (moved == "" || moved[0] == '.' || moved[0] == '-') {
			errs, found = append(errs, emptyAndRemove(filepath.Join(h.opt.LogDir, file))), true
		}
	}
	if found {
		errs = append(errs, dir.Sync())
	}
	return wrap(what, errors.Join(errs...))
}

// emptyAndRemove takes the bytes from a file, so that they are gone for who still has it open, and its name. What has another
// name is only unlinked: its bytes belong to others.
func emptyAndRemove(path string) error {
	var errs []error
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Sys().(*syscall.Stat_t).Nlink == 1 {
		errs = append(errs, os.Truncate(path, 0))
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(append(errs, err)...)
}
