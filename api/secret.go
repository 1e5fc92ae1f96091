package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// minSecret is the shortest secret that is accepted, in bytes: HS256 with less can be guessed (RFC 7518, section 3.2).
const minSecret = 32

var errSecret = errors.New("not fit to be a secret")

// secretFile is a secret in a file, read again when the file changes, so that it can be rotated without a restart.
// A file that went bad gives an error and not the old secret: who removed it meant it.
type secretFile struct {
	path string

	mu    sync.Mutex // guards what follows
	state fileState
	value []byte
	err   error
}

// fileState tells one content of a file from the next without reading it.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// openSecret reads the secret for the first time.
func openSecret(path string) (*secretFile, error) {
	s := &secretFile{path: path}
	_, err := s.read()
	return s, err
}

// read returns the present secret. The caller must not change it.
func (s *secretFile) read() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if err != nil {
		s.state = fileState{} // whatever comes back is read
		return nil, fmt.Errorf("api: token secret: %w", err)
	}
	if now := stateOf(info); now != s.state {
		// The state is from before the read: a write in between makes the next call read again.
		s.state = now
		s.value, s.err = readSecret(s.path)
	}
	return s.value, s.err
}

func readSecret(path string) ([]byte, error) {
	const longest = 4096
	// Without O_NONBLOCK a FIFO in its place would hang the request.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("api: token secret: %w", err)
	}
	defer f.Close()
	if err := checkPrivate(f); err != nil {
		return nil, fmt.Errorf("api: token secret: %w", err)
	}
	value, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return nil, fmt.Errorf("api: token secret: %w", err)
	}
	// Editors and shells end a file with a newline; issuers do not sign with it.
	value = bytes.TrimRight(value, "\r\n")
	if len(value) < minSecret || len(value) > longest {
		return nil, fmt.Errorf("api: token secret %s: %w: it must have %d to %d bytes, not %d", path, errSecret, minSecret, longest, len(value))
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
