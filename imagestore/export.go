package imagestore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
)

// Open opens an image for reading, as for an export: the file can be read from any place, by several readers through
// handles of their own, and stays readable after the image was removed. The caller closes it. ErrNotFound if there is
// no such image, ErrInvalid if d is no digest.
func (s *Store) Open(ctx context.Context, d Digest) (*os.File, Image, error) {
	b, err := s.openImage(ctx, d)
	if err != nil {
		return nil, Image{}, failed("open image", fmt.Sprintf("%.80q", string(d)), err)
	}
	return b.file, Image{Digest: d, Format: b.format, FileBytes: b.fileBytes, VirtualBytes: b.virtualBytes}, nil
}

// Verify reads an image once more, and holds its bytes against its digest: ErrCorrupt if they are others. It changes
// nothing, and waits while another image is verified. ErrNotFound if there is no such image, ErrInvalid if d is no digest; ending
// ctx ends it. Its step is "digest".
func (s *Store) Verify(ctx context.Context, d Digest, p Progress) error {
	b, err := s.openImage(ctx, d)
	if err != nil {
		return failed("verify image", fmt.Sprintf("%.80q", string(d)), err)
	}
	defer b.file.Close()
	end, err := s.verifying.take(ctx)
	if err != nil {
		return failed("verify image", string(d), err)
	}
	defer end()
	got, err := s.digest(ctx, b.file, p)
	if err == nil && got.sum() != d {
		err = fmt.Errorf("%w: its bytes are %s now", ErrCorrupt, got.sum())
	}
	if err != nil {
		return failed("verify image", string(d), err)
	}
	return nil
}

// digest reads a whole file.
func (s *Store) digest(ctx context.Context, f *os.File, p Progress) (*digested, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	c := &intake{store: s, name: "digest", size: info.Size(), progress: p, digest: h}
	if err := c.run(ctx, f, false); err != nil {
		return nil, err
	}
	return &digested{hash: h, n: c.size}, nil
}
