package imagestore

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"time"
)

// Progress hears how far a long job is. An import has step "copy" in bytes, then step "inspect" from 0 to 1; before
// these a flattening has "convert" and "clean", and any job that reads its bytes once more has "digest". A total of -1
// is not known. It is called from one goroutine at a time, some hundred times at most, and should return at once.
type Progress func(step string, done, total int64)

// Import takes a file in as an image. The file is copied or reflinked first, holes kept, and everything else
// is done on that copy: it is digested (SHA-256 of every byte, holes as zeros) and inspected, then it gets its
// final name and never changes again. The same bytes twice are one image, whoever comes first.
//
// A file that is no acceptable image is refused with a [*BadImage] in the chain (ErrInvalid): not a regular
// file, changed while it was read, foreign, damaged, cut short, or dependent on other files. fs.ErrNotExist or
// fs.ErrPermission if path cannot be opened, ErrExhausted if the disk has no room. Ending ctx ends the work.
// Whatever the failure, nothing stays behind. p may be nil.
func (s *Store) Import(ctx context.Context, path string, p Progress) (Image, error) {
	began := time.Now()
	img, err := s.importFile(ctx, path, p)
	if err != nil {
		return Image{}, failed("import", strconv.Quote(path), err)
	}
	s.imported(ctx, "image imported", img, began)
	return img, nil
}

func (s *Store) importFile(ctx context.Context, path string, p Progress) (_ Image, err error) {
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	from, err := openSource(path)
	if err != nil {
		return Image{}, err
	}
	defer from.Close()
	// A clone belongs to its owner, who did not offer it; that the caller can name it is no permission.
	if real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(from.Fd()))); err != nil || s.contains(real) {
		return Image{}, errors.Join(err, refuse("give a file of your own", "it belongs to the image store"))
	}
	name, to, err := s.newIncoming()
	if err != nil {
		return Image{}, err
	}
	defer s.dropIncoming(name) // after a rename there is nothing left to drop
	digest, err := s.takeIn(ctx, from, to, p)
	if err = errors.Join(err, to.Chmod(0o444), to.Close()); err != nil {
		return Image{}, err
	}
	return s.commit(ctx, name, digest, p, s.incoming.rename)
}

// commit makes a complete file in incoming an image, unless the same bytes are one already. place is how the file
// gets its final name: by moving or by linking it.
func (s *Store) commit(ctx context.Context, name string, digest Digest, p Progress, place placing) (Image, error) {
	if img, err := s.Stat(ctx, digest); err == nil || !errors.Is(err, ErrNotFound) {
		return img, err // the same bytes were inspected when they came the first time
	}
	return s.admit(ctx, name, digest, p, place)
}

// placing gives an entry of a directory a name in another one, and replaces nothing there.
type placing func(name string, to *directory, as string) error

// admit inspects a complete file in incoming and gives it its final name.
func (s *Store) admit(ctx context.Context, name string, digest Digest, p Progress, place placing) (Image, error) {
	// Read-only from here on, and readable for the sandbox, which gets the descriptor: nobody but root can come
	// near it by name.
	f, err := s.incoming.open(name)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	if p != nil {
		p("inspect", 0, 1)
	}
	format, virtual, err := inspect(ctx, f)
	if err != nil {
		return Image{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return Image{}, err
	}
	if err := errors.Join(s.own(f), f.Sync()); err != nil {
		return Image{}, err
	}
	digits, err := digest.hex()
	if err != nil {
		return Image{}, err
	}
	err = place(name, s.images, imageName(digits, format))
	if err != nil && !errors.Is(err, fs.ErrExist) { // exists: somebody imported the same bytes meanwhile
		return Image{}, err
	}
	if err := s.images.sync(); err != nil {
		return Image{}, err
	}
	if p != nil {
		p("inspect", 1, 1)
	}
	return Image{Digest: digest, Format: format, FileBytes: info.Size(), VirtualBytes: virtual}, nil
}

// newIncoming makes a file that a sweep of this process leaves alone.
func (s *Store) newIncoming() (string, *os.File, error) {
	name := rand.Text()
	s.mu.Lock()
	s.live[name] = true
	s.mu.Unlock()
	f, err := s.incoming.create(name)
	if err != nil {
		s.dropIncoming(name)
	}
	return name, f, err
}

// dropIncoming removes what is left of an import. A file that cannot be removed waits for the next sweep.
func (s *Store) dropIncoming(name string) {
	if err := s.incoming.remove(name); err != nil {
		s.opt.Log.Warn("import left a file behind", slog.Any("error", err))
	}
	s.mu.Lock()
	delete(s.live, name)
	s.mu.Unlock()
}
