package api

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

var errSecret = errors.New("not fit to be a secret")

// privateFile is what a file says that is not for everybody, read again when the file changes, so that a secret or a
// password is changed without a restart. A file that went bad gives an error, and not what it said before: who removed
// something meant it.
type privateFile[T any] struct {
	path  string
	what  string               // what an error calls it
	most  int64                // bytes; parse is given one more of a file that has more
	check func(*os.File) error // checkPrivate, or what is stricter
	parse func(text []byte) (T, error)

	mu    sync.Mutex // guards what follows
	state fileState
	value T
	err   error
}

// fileState tells one content of a file from the next without reading it.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// read returns what the file says at present. The caller must not change it.
func (f *privateFile[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		f.state = fileState{} // whatever comes back is read
		var none T
		return none, fmt.Errorf("api: %s: %w", f.what, err)
	}
	if now := stateOf(info); now != f.state {
		// The state is from before the read: a write in between makes the next call read again.
		f.state = now
		f.value, f.err = f.load()
	}
	return f.value, f.err
}

func (f *privateFile[T]) load() (none T, err error) {
	// Without O_NONBLOCK a FIFO in its place would hang the request.
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return none, fmt.Errorf("api: %s: %w", f.what, err)
	}
	defer file.Close()
	if err := f.check(file); err != nil {
		return none, fmt.Errorf("api: %s: %w", f.what, err)
	}
	text, err := io.ReadAll(io.LimitReader(file, f.most+1))
	if err != nil {
		return none, fmt.Errorf("api: %s: %w", f.what, err)
	}
	value, err := f.parse(text)
	if err != nil {
		return none, fmt.Errorf("api: %s %s: %w", f.what, f.path, err)
	}
	return value, nil
}

// checkPrivate refuses what is no regular file, or what everybody on the machine may touch.
func checkPrivate(f *os.File) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w: not a regular file", f.Name(), errSecret)
	case info.Mode().Perm()&0o007 != 0:
		return fmt.Errorf("%s: %w: mode %04o gives others access; chmod 0600 it", f.Name(), errSecret, info.Mode().Perm())
	}
	return nil
}

func stateOf(info os.FileInfo) fileState {
	st := info.Sys().(*syscall.Stat_t)
	return fileState{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}
