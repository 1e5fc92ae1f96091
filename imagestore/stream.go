package imagestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"time"
)

// Source is a stream of bytes that shall become an image.
type Source struct {
	Reader io.Reader
	Bytes  int64  // how many must come; -1 if that is not known
	SHA256 Digest // what they must be; "" to take what comes
}

func (src Source) check(limit int64) error {
	if src.SHA256 != "" {
		if _, err := src.SHA256.hex(); err != nil {
			return err
		}
	}
	switch {
	case src.Bytes < -1:
		return fmt.Errorf("%w: %d bytes: want a size, or -1 if it is not known", ErrInvalid, src.Bytes)
	case src.Bytes == 0:
		return refuse("give a disk image", "it is empty")
	case src.Bytes > limit:
		return refuse("give a smaller image", "it is %d bytes long, more than the %d that are taken in", src.Bytes, limit)
	}
	return nil
}

// ImportFrom takes a stream in as an image, as [Store.Import] does a file: holes are left where there are zeros, the
// bytes are digested as they come, inspected once all are there, and stored once. What fails with them leaves nothing.
//
// The errors are those of Import, an [*OffsetError] (ErrConflict) with what came if fewer bytes came than announced,
// ErrDigest if they are others, and what the reader gave. Ending ctx ends the work at the next megabyte: a read that
// waits is ended by the reader's owner. A digest that is known already saves nothing: whoever wants an image must
// show its bytes, not its name.
func (s *Store) ImportFrom(ctx context.Context, src Source, p Progress) (Image, error) {
	began := time.Now()
	img, err := s.importStream(ctx, src, s.opt.MaxImageBytes, p)
	if err != nil {
		return Image{}, failed("import", "a stream", err)
	}
	s.imported(ctx, "image imported from a stream", img, began)
	return img, nil
}

func (s *Store) imported(ctx context.Context, message string, img Image, began time.Time) {
	s.opt.Log.LogAttrs(ctx, slog.LevelInfo, message, slog.String("digest", string(img.Digest)),
		slog.String("format", string(img.Format)), slog.Int64("file_bytes", img.FileBytes),
		slog.Duration("took", time.Since(began)))
	s.measure()
}

// importStream takes in no more than limit bytes.
func (s *Store) importStream(ctx context.Context, src Source, limit int64, p Progress) (_ Image, err error) {
	if err := errors.Join(ctx.Err(), src.check(limit)); err != nil {
		return Image{}, err
	}
	if err := s.room(ctx, max(src.Bytes, 0)); err != nil {
		return Image{}, err
	}
	name, to, err := s.newIncoming()
	if err != nil {
		return Image{}, err
	}
	defer s.dropIncoming(name)
	k := &sink{store: s, to: to, want: src.Bytes, limit: limit, digest: &digested{hash: sha256.New()}}
	err = k.take(ctx, src.Reader, p)
	if err == nil && src.Bytes >= 0 && k.at != src.Bytes {
		err = fmt.Errorf("%d bytes were announced: %w", src.Bytes, &OffsetError{Received: k.at})
	}
	if err == nil {
		err = announced(src.SHA256, k.digest.sum())
	}
	if err = errors.Join(err, to.Chmod(0o444), to.Close()); err != nil {
		return Image{}, err
	}
	return s.commit(ctx, name, k.digest.sum(), p, s.incoming.rename)
}

// announced holds what came against what was said about it.
func announced(want, got Digest) error {
	if want == "" || want == got {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrDigest, refuse("check the digest, and send the file again",
		"its bytes are %s, and %s was announced", got, want))
}

// digested is the digest of the first n bytes of a file.
type digested struct {
	hash hash.Hash
	n    int64
}

func (d *digested) write(b []byte) {
	d.hash.Write(b)
	d.n += int64(len(b))
}

func (d *digested) sum() Digest { return Digest(digestPrefix + hex.EncodeToString(d.hash.Sum(nil))) }

// sinkPiece is the granularity of the holes that a sink leaves: that of a qcow2 cluster.
const sinkPiece = 64 << 10

// sink writes a stream to the end of a file.
type sink struct {
	store  *Store
	to     *os.File
	at     int64        // the file's length
	want   int64        // how many were announced: no more than these; -1 if none were
	limit  int64        // no more than these in any case
	digest *digested    // takes what comes, if it has all that came before; nil for none
	wanted func() error // whether the file still is; nil if it cannot vanish
}

// take reads r to its end. Whatever ends it, the file's length is what came and was written, no less and no more, and
// the digest has as much.
func (k *sink) take(ctx context.Context, r io.Reader, p Progress) error {
	limit := k.limit
	if k.want >= 0 {
		limit = min(limit, k.want)
	}
	buf := make([]byte, copyChunk)
	told := k.at
	for ended := false; !ended; {
		// One more than may come, so that too much is told from just enough.
		n, err := fill(r, buf[:min(copyChunk, limit-k.at+1)])
		if ended = err != nil; errors.Is(err, errEnd) {
			err = nil
		}
		if k.at+int64(n) > limit {
			return refuse("give the size that it has, up to the limit", "more than %d bytes came", limit)
		}
		if err := errors.Join(k.put(ctx, buf[:n]), err, ctx.Err(), k.vanished()); err != nil {
			return err
		}
		if p != nil && (ended || k.at-told >= max(k.want/200, 16*copyChunk)) {
			told = k.at
			p("copy", k.at, k.want)
		}
	}
	return nil
}

func (k *sink) vanished() error {
	if k.wanted == nil {
		return nil
	}
	return k.wanted()
}

// errEnd is the proper end of a stream. io.ReadFull would not do: it has one error for a stream that ended within the
// buffer and for one that says itself, as a transfer that was cut does, that it ended unexpectedly.
var errEnd = errors.New("end of the stream")

// fill reads until buf is full, or the stream has ended in whatever way.
func fill(r io.Reader, buf []byte) (n int, err error) {
	const patience = 100 // reads in a row that bring nothing, as bufio has it
	for idle := 0; n < len(buf); {
		m, err := r.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF: // exactly this: an error that wraps it means something else
			return n, errEnd
		case err != nil:
			return n, err
		case m > 0:
			idle = 0
		default:
			if idle++; idle == patience {
				return n, io.ErrNoProgress
			}
		}
	}
	return n, nil
}

// put appends bytes and leaves holes for zeros. After an error none of them is there.
func (k *sink) put(ctx context.Context, b []byte) (err error) {
	if len(b) == 0 {
		return nil
	}
	if err := k.store.room(ctx, int64(len(b))); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.to.Truncate(k.at))
		}
	}()
	end := k.at + int64(len(b))
	for at, rest := k.at, b; len(rest) > 0; {
		piece := rest[:min(int64(len(rest)), sinkPiece-at%sinkPiece)]
		if !bytes.Equal(piece, zeroPiece[:len(piece)]) {
			if _, err := k.to.WriteAt(piece, at); err != nil {
				return err
			}
		}
		at, rest = at+int64(len(piece)), rest[len(piece):]
	}
	if err := k.to.Truncate(end); err != nil { // it may end in a hole
		return err
	}
	if k.digest != nil {
		k.digest.write(b)
	}
	k.at = end
	return nil
}

// zeroPiece is never written to.
var zeroPiece = make([]byte, sinkPiece)
