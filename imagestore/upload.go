package imagestore

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UploadID names an upload. It is hard to guess, but no secret: whose upload it is, the caller knows.
type UploadID string

// Upload is an image that comes in pieces.
type Upload struct {
	ID       UploadID
	Bytes    int64     // how many were announced; -1 for none
	SHA256   Digest    // what was announced; "" for nothing
	Received int64     // how many are there
	Touched  time.Time // when bytes came last
}

// An upload is a file in incoming whose name says all that was announced: upload.ID.BYTES.SHA256.BOOT. Bytes that are
// not on the disk when the machine dies can read as zeros afterwards, below the file's length, and no reply of ours
// waited for the disk: so an upload belongs to one boot of the machine.
const (
	uploadPrefix = "upload"
	unannounced  = "any"

	// Its mode says whether bytes can still be added.
	growingMode  = 0o600
	finishedMode = 0o440

	// uploadAge is how long an upload waits for its next piece.
	uploadAge = 24 * time.Hour
)

// name is the upload's file.
func (u Upload) name(boot string) string {
	size, sum := unannounced, unannounced
	if u.Bytes >= 0 {
		size = strconv.FormatInt(u.Bytes, 10)
	}
	if u.SHA256 != "" {
		sum = strings.TrimPrefix(string(u.SHA256), digestPrefix)
	}
	return strings.Join([]string{uploadPrefix, string(u.ID), size, sum, boot}, ".")
}

// parseUploadName is the inverse of name; other names are not the store's, or of another boot.
func parseUploadName(name, boot string) (u Upload, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 5 || parts[1] == "" {
		return Upload{}, false
	}
	u = Upload{ID: UploadID(parts[1]), Bytes: -1}
	if parts[2] != unannounced {
		n, err := strconv.ParseInt(parts[2], 10, 64)
		if err != nil || n < 0 {
			return Upload{}, false
		}
		u.Bytes = n
	}
	if parts[3] != unannounced {
		u.SHA256 = Digest(digestPrefix + parts[3])
		if _, err := u.SHA256.hex(); err != nil {
			return Upload{}, false
		}
	}
	return u, u.name(boot) == name // so that nothing has two names
}

// thisBoot is different for each boot of the machine.
func thisBoot() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""), err
}

// BeginUpload makes an empty upload. size is the number of bytes that will come, -1 if it is not known; sum is what
// they will be, "" if that is not known. It can be gone on with for 24 hours after its last piece, also by a process
// that comes after this one, but not after a boot of the machine: see [Store.Sweep].
//
// ErrInvalid for a size or a digest that cannot be, ErrExhausted if there is no room for size bytes. No room is set
// aside: others may use it up meanwhile.
func (s *Store) BeginUpload(ctx context.Context, size int64, sum Digest) (UploadID, error) {
	id, err := s.beginUpload(ctx, size, sum)
	if err != nil {
		return "", failed("begin upload of", strconv.FormatInt(size, 10)+" bytes", err)
	}
	return id, nil
}

func (s *Store) beginUpload(ctx context.Context, size int64, sum Digest) (UploadID, error) {
	err := errors.Join(ctx.Err(), Source{Bytes: size, SHA256: sum}.check(s.opt.MaxImageBytes))
	if err == nil {
		err = s.room(ctx, max(size, 0))
	}
	if err != nil {
		return "", err
	}
	u := Upload{ID: UploadID(rand.Text()), Bytes: size, SHA256: sum}
	f, err := s.incoming.create(u.name(s.boot))
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.uploads[u.ID] = &digested{hash: sha256.New()}
	s.mu.Unlock()
	return u.ID, f.Close()
}

// AppendUpload adds the bytes of r at offset, which must be what is there already, and returns how many bytes are
// there then, also with an error: what came before the error stays, and the upload can be gone on with there.
//
// An [*OffsetError] (ErrConflict) for another offset, ErrConflict if the upload was finished, ErrInUse while another
// call works on it, ErrNotFound if there is none, ErrInvalid if more comes than was announced (nothing of the piece
// stays then), ErrExhausted if the disk has no room, and what r gave. Ending ctx ends the work at the next megabyte:
// a read that waits is ended by r's owner.
func (s *Store) AppendUpload(ctx context.Context, id UploadID, offset int64, r io.Reader) (received int64, err error) {
	received, err = s.appendUpload(ctx, id, offset, r)
	if err != nil {
		return received, failed("append to upload", fmt.Sprintf("%.40q", string(id)), err)
	}
	return received, nil
}

func (s *Store) appendUpload(ctx context.Context, id UploadID, offset int64, r io.Reader) (_ int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	u, release, err := s.claimUpload(id)
	if err != nil {
		return 0, err
	}
	defer release()
	f, err := s.incoming.openat(u.name(s.boot), unix.O_RDWR, 0)
	if err != nil {
		return 0, gone(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	there := info.Size()
	switch {
	case info.Mode().Perm() != growingMode:
		return there, fmt.Errorf("%w: it was finished", ErrConflict)
	case offset != there:
		return there, &OffsetError{Received: there}
	}
	k := &sink{store: s, to: f, at: there, want: u.Bytes, limit: s.opt.MaxImageBytes, digest: s.digestOf(id, there), wanted: func() error {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink > 0 {
			return err
		}
		return gone(fs.ErrNotExist)
	}}
	err = k.take(ctx, r, nil)
	if errors.Is(err, ErrInvalid) { // the digest has more now than the file, and is of no use any more
		s.forgetDigest(id)
		return there, errors.Join(err, f.Truncate(there))
	}
	return k.at, err
}

// FinishUpload makes an image of an upload to which nothing is missing, as [Store.Import] does of a file.
//
// The upload stays until [Store.AbortUpload], and FinishUpload can be called again with the same result: so a caller
// that dies before it has written down what came of it can ask once more. The bytes are there once, and nothing can be
// added any more. An upload whose bytes were refused, by inspection or for another digest than was announced, is gone.
//
// The errors are those of [Store.ImportFrom], ErrNotFound if there is no such upload, ErrInUse while another call
// works on it.
func (s *Store) FinishUpload(ctx context.Context, id UploadID, p Progress) (Image, error) {
	began := time.Now()
	img, err := s.finishUpload(ctx, id, p)
	if err != nil {
		return Image{}, failed("finish upload", fmt.Sprintf("%.40q", string(id)), err)
	}
	s.imported(ctx, "upload became an image", img, began)
	return img, nil
}

func (s *Store) finishUpload(ctx context.Context, id UploadID, p Progress) (_ Image, err error) {
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	u, release, err := s.claimUpload(id)
	if err != nil {
		return Image{}, err
	}
	defer release()
	name := u.name(s.boot)
	f, err := s.incoming.open(name)
	if err != nil {
		return Image{}, gone(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Image{}, err
	}
	if u.Bytes >= 0 && info.Size() != u.Bytes {
		return Image{}, fmt.Errorf("%d bytes were announced: %w", u.Bytes, &OffsetError{Received: info.Size()})
	}
	defer func() {
		if errors.Is(err, ErrInvalid) {
			err = errors.Join(err, s.incoming.remove(name))
			s.forgetDigest(id)
		}
	}()
	if info.Size() == 0 {
		return Image{}, refuse("send a disk image", "it is empty")
	}
	digest := s.digestOf(id, info.Size())
	if digest == nil {
		if digest, err = s.digest(ctx, f, p); err != nil {
			return Image{}, err
		}
	}
	if err := announced(u.SHA256, digest.sum()); err != nil {
		return Image{}, err
	}
	if img, err := s.Stat(ctx, digest.sum()); err == nil || !errors.Is(err, ErrNotFound) {
		return img, errors.Join(err, f.Chmod(finishedMode)) // it may be this very file
	}
	if err := f.Chmod(0o444); err != nil {
		return Image{}, err
	}
	img, err := s.admit(ctx, name, digest.sum(), p, s.incoming.link)
	return img, gone(err)
}

// AbortUpload drops an upload, finished or not; an image that was made of it stays. Absent is nil. A call that works on
// it meanwhile ends with ErrNotFound, an appending one at its next megabyte.
func (s *Store) AbortUpload(ctx context.Context, id UploadID) error {
	err := ctx.Err()
	var u Upload
	if err == nil {
		u, err = s.findUpload(id)
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil {
		err = s.incoming.remove(u.name(s.boot))
		s.forgetDigest(id)
	}
	if err != nil {
		return failed("abort upload", fmt.Sprintf("%.40q", string(id)), err)
	}
	return nil
}

// Uploads lists what was begun and not aborted, sorted by ID.
func (s *Store) Uploads(ctx context.Context) ([]Upload, error) {
	names, err := s.incoming.names()
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, failed("list uploads in", s.opt.Dir, err)
	}
	var all []Upload
	for _, name := range names {
		u, ok := parseUploadName(name, s.boot)
		if !ok {
			continue
		}
		st, err := s.incoming.stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, failed("list uploads in", s.opt.Dir, err)
		}
		u.Received, u.Touched = st.Size, time.Unix(st.Mtim.Unix())
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b Upload) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// findUpload finds an upload by its ID; size and time are not filled in.
func (s *Store) findUpload(id UploadID) (Upload, error) {
	names, err := s.incoming.names()
	if err != nil {
		return Upload{}, err
	}
	for _, name := range names {
		if u, ok := parseUploadName(name, s.boot); ok && u.ID == id {
			return u, nil
		}
	}
	return Upload{}, gone(fs.ErrNotExist)
}

// gone names the upload as what is missing.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: upload: it was aborted, waited too long, or is of another boot", ErrNotFound)
	}
	return err
}

// claimUpload gives an upload to one caller at a time, and keeps the sweep from it.
func (s *Store) claimUpload(id UploadID) (_ Upload, release func(), err error) {
	u, err := s.findUpload(id)
	if err != nil {
		return Upload{}, nil, err
	}
	name := u.name(s.boot)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[name] {
		return Upload{}, nil, fmt.Errorf("%w: another call works on it", ErrInUse)
	}
	s.live[name] = true
	return u, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.live, name)
	}, nil
}

// digestOf returns the digest of an upload's n bytes if they all came through this process, else nil. Only who has
// claimed the upload may write to it.
func (s *Store) digestOf(id UploadID, n int64) *digested {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.uploads[id]; d != nil && d.n == n {
		return d
	}
	return nil
}

// forgetDigest makes FinishUpload read the bytes once more.
func (s *Store) forgetDigest(id UploadID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, id)
}
