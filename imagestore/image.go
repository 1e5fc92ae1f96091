package imagestore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Digest identifies an image by its bytes: "sha256:" and 64 lower-case hex digits.
type Digest string

// Format is a disk format that the store takes in.
type Format string

const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// Image is a file in the store. It never changes.
type Image struct {
	Digest       Digest
	Format       Format
	FileBytes    int64 // length of the file
	VirtualBytes int64 // size of the disk that a guest sees
}

// File is one disk of a clone's directory, ready for a domain.
type File struct {
	Path   string
	Format Format
	// Base is the pinned backing file of an overlay, inside the same directory; "" for a file of its own.
	Base       string
	BaseFormat Format
	Method     string // "reflink" or "overlay"
}

const digestPrefix = "sha256:"

var formats = []Format{Raw, Qcow2}

// hex returns the digest's digits, or ErrInvalid: a digest becomes a file name, so nothing else passes.
func (d Digest) hex() (string, error) {
	digits, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok || len(digits) != 64 || strings.ToLower(digits) != digits {
		return "", fmt.Errorf("%w: digest %.80q", ErrInvalid, string(d))
	}
	if _, err := hex.DecodeString(digits); err != nil {
		return "", fmt.Errorf("%w: digest %.80q", ErrInvalid, string(d))
	}
	return digits, nil
}

// imageName is the name of an image's file.
func imageName(digits string, f Format) string { return digits + "." + string(f) }

// parseImageName is the inverse of imageName.
func parseImageName(name string) (Digest, bool) {
	for _, f := range formats {
		if digits, ok := strings.CutSuffix(name, "."+string(f)); ok {
			d := Digest(digestPrefix + digits)
			_, err := d.hex()
			return d, err == nil
		}
	}
	return "", false
}

// Stat describes an image of the store. ErrNotFound if it is not there, ErrInvalid if d is no digest.
func (s *Store) Stat(ctx context.Context, d Digest) (Image, error) {
	b, err := s.openImage(ctx, d)
	if err != nil {
		return Image{}, failed("stat image", string(d), err)
	}
	defer b.file.Close()
	return Image{Digest: d, Format: b.format, FileBytes: b.fileBytes, VirtualBytes: b.virtualBytes}, nil
}

// Remove takes an image out of the store. Clones keep what they need of it. Absent is nil; it is durable.
func (s *Store) Remove(ctx context.Context, d Digest) error {
	digits, err := d.hex()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return failed("remove image", fmt.Sprintf("%.80q", string(d)), err)
	}
	for _, f := range formats {
		err = errors.Join(err, s.images.remove(imageName(digits, f)))
	}
	if err = errors.Join(err, s.images.sync()); err != nil {
		return failed("remove image", string(d), err)
	}
	s.measure()
	return nil
}

// backing is an open, immutable file that clones are made of.
type backing struct {
	dir          *directory
	name         string
	file         *os.File
	format       Format
	fileBytes    int64
	virtualBytes int64
	wanted       int64 // size of the disk that a clone is to be; no less than virtualBytes
}

// openImage opens an image by its digest.
func (s *Store) openImage(ctx context.Context, d Digest) (backing, error) {
	digits, err := d.hex()
	if err != nil {
		return backing{}, err
	}
	if err := ctx.Err(); err != nil {
		return backing{}, err
	}
	for _, f := range formats {
		b, err := openBacking(s.images, imageName(digits, f), f)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	return backing{}, fmt.Errorf("%w: image", ErrNotFound)
}

// openBacking opens a file of the store. Its header was inspected when it came in, and it never changed since.
func openBacking(dir *directory, name string, format Format) (_ backing, err error) {
	f, err := dir.open(name)
	if err != nil {
		return backing{}, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return backing{}, err
	}
	b := backing{dir: dir, name: name, file: f, format: format, fileBytes: info.Size(), virtualBytes: info.Size()}
	if format == Qcow2 {
		h, err := parseQcow2(f, info.Size())
		if err != nil {
			return backing{}, dir.wrap("read header of", name, err)
		}
		b.virtualBytes = int64(h.Size)
	}
	b.wanted = b.virtualBytes
	return b, nil
}
