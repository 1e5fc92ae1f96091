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
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("in use")
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
