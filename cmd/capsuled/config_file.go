package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

const (
	maxConfigBytes = 1 << 20
	maxSecretBytes = 1 << 20
	minSecretBytes = 32 // RFC 7518, section 3.2: an HS256 key has at least the bits of the hash
)

// Permission bits of those who are neither owner nor group.
const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
)

// optional lets "" pass: the key is then as good as absent.
func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

// readRegular reads a regular file of at most limit bytes; forbidden are the permission bits that it may not have.
// Looking before reading would judge one file and read another, so everything is asked of the open file.
func readRegular(path string, limit int64, forbidden fs.FileMode) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	return readFile(path, limit, forbidden)
}

func readFile(path string, limit int64, forbidden fs.FileMode) ([]byte, error) {
	f, err := openNonblock(path)
	if err != nil {
		return nil, fmt.Errorf("is %q, which cannot be read: %w", path, reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("is %q, which cannot be read: %w", path, reason(err))
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("is %q, which is not a regular file", path)
	case info.Mode()&forbidden != 0:
		return nil, fmt.Errorf("is %q, whose mode %04o lets everybody in: chmod o= %s", path, info.Mode().Perm(), path)
	case info.Size() > limit:
		return nil, fmt.Errorf("is %q, which has %d bytes; at most %d are read", path, info.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("is %q, which cannot be read: %w", path, reason(err))
	}
	return data, nil
}

// reason is the error without the path, which the caller has said already.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// checkSecretFile looks at the shape of a secret. The server loads it itself, again whenever it changes.
func checkSecretFile(path string) error {
	data, err := readRegular(path, maxSecretBytes, othersRead|othersWrite)
	if err != nil {
		return err
	}
	if n := len(bytes.TrimSpace(data)); n < minSecretBytes {
		return fmt.Errorf("is %q, which holds %d bytes; want at least %d, such as from: openssl rand -hex 32", path, n, minSecretBytes)
	}
	return nil
}

func checkCertificate(path string) error {
	data, err := readRegular(path, maxSecretBytes, othersWrite)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return fmt.Errorf("is %q, which holds no certificate in PEM form", path)
	}
	return nil
}

func checkPrivateKey(path string) error {
	data, err := readRegular(path, maxSecretBytes, othersRead|othersWrite)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")) {
			return nil
		}
	}
	return fmt.Errorf("is %q, which holds no private key in PEM form", path)
}

// openNonblock opens for reading without waiting for a writer, as a FIFO in the place of a file would make us.
func openNonblock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}
