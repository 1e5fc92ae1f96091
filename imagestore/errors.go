package imagestore

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound says that the image, the template or the clone directory is not there.
	ErrNotFound = errors.New("not found")
	// ErrInvalid says that an argument or an image cannot be accepted. For an image the chain also holds a
	// [*BadImage], whose text is fit for the person who gave the file.
	ErrInvalid = errors.New("invalid")
	// ErrExhausted says that the file system is full, or would be left with less than the reserve.
	ErrExhausted = errors.New("not enough disk space")
	// ErrInUse says that somebody else holds what is asked for: another process the store, a process a disk, another
	// call an upload.
	ErrInUse = errors.New("in use")
	// ErrConflict says that an upload is not where the caller thinks it is; the chain holds an [*OffsetError] that says
	// where, unless nothing can be added any more.
	ErrConflict = errors.New("conflict")
	// ErrDigest says that the bytes that came are not those that were announced. It comes with an [ErrInvalid].
	ErrDigest = errors.New("another digest")
	// ErrCorrupt says that the bytes of an image in the store are not those that came in.
	ErrCorrupt = errors.New("corrupt")
	// ErrSource says that a remote source did not give its bytes; the chain holds a [*SourceError].
	ErrSource = errors.New("source failed")
	// ErrUnsupported says that a disk holds something that cannot be cleaned here; the chain also holds a [*BadImage].
	ErrUnsupported = errors.New("cannot be cleaned")
)

// BadImage says why an image was refused, and what would make it acceptable. It matches [ErrInvalid].
type BadImage struct {
	Fault  string // what is wrong with the file: "it is compressed with gzip"
	Remedy string // what to do about it: "decompress it first"
}

func (e *BadImage) Error() string { return e.Fault + "; " + e.Remedy }

// Unwrap makes every BadImage an [ErrInvalid].
func (e *BadImage) Unwrap() error { return ErrInvalid }

// refuse makes a BadImage; args belong to the fault.
func refuse(remedy, fault string, args ...any) error {
	return &BadImage{Fault: fmt.Sprintf(fault, args...), Remedy: remedy}
}

// failed puts the operation and its subject before an error, and classifies a full disk.
func failed(verb, subject string, err error) error {
	if full(err) && !errors.Is(err, ErrExhausted) {
		return fmt.Errorf("imagestore: %s %s: %w: %w", verb, subject, ErrExhausted, err)
	}
	return fmt.Errorf("imagestore: %s %s: %w", verb, subject, err)
}

// full tells a file system or a quota without room.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// OffsetError says how much of an upload is there. It matches [ErrConflict].
type OffsetError struct{ Received int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("%d bytes are there: go on at this offset", e.Received)
}

// Unwrap makes every OffsetError an [ErrConflict].
func (e *OffsetError) Unwrap() error { return ErrConflict }

// SourceError says what a remote source did, in words that name no address of this side. It matches [ErrSource].
type SourceError struct {
	Fault string // "it did not answer in time"
	Err   error  // what was met, for the log; it may name resolvers and addresses
}

func (e *SourceError) Error() string { return e.Fault }

// Unwrap makes every SourceError an [ErrSource], and lets a cancellation be seen.
func (e *SourceError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrSource}
	}
	return []error{ErrSource, e.Err}
}
