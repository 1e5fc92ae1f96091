package firewall

import "errors"

var (
	// ErrInvalid says that the caller's options or bindings cannot be meant: nothing was changed.
	ErrInvalid = errors.New("invalid")
	// ErrUnavailable says that the host would not do it: a program is missing, a lock is held, the kernel
	// refuses, the deadline passed. Nothing is looser than before; the call may be repeated.
	ErrUnavailable = errors.New("unavailable")
)
