package domain

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"
)

// Every error of this package that a caller may want to act on wraps exactly one of these. An error without
// one is a fault of ours or of the host, and its text says which.
var (
	ErrNotFound     = errors.New("not found")            // no such domain, network or lease, or not one of ours
	ErrConflict     = errors.New("conflict")             // the present state, or a stranger, forbids it
	ErrBusy         = errors.New("busy")                 // another job holds the domain; try again
	ErrExhausted    = errors.New("host exhausted")       // no memory or disk space left on the host
	ErrUnsupported  = errors.New("not supported")        // this libvirt or QEMU cannot do it
	ErrUnavailable  = errors.New("libvirt unavailable")  // not connected, connection lost, or no answer in time
	ErrStillRunning = errors.New("domain still running") // the guest did not shut down in time
	ErrInvalid      = errors.New("invalid")              // the caller's argument is not valid
	ErrUnusable     = errors.New("saved state cannot be used")
	ErrUnresponsive = errors.New("guest agent does not answer") // absent, too late, or not understood
	ErrRefused      = errors.New("guest refuses")               // the guest's agent answered, and not with success
	// ErrAdrift: QEMU writes to a disk that libvirt does not know of, since libvirtd died in the middle of a change.
	// Nothing that libvirt says of the domain's disks can be trusted: destroy it.
	ErrAdrift = errors.New("domain runs on a disk that libvirt does not know")
)

// codes translates libvirt's error codes. A code that is missing stays unclassified on purpose: bad XML, for
// one, is never the caller's fault.
var codes = map[libvirt.ErrorNumber]error{
	libvirt.ERR_NO_DOMAIN:               ErrNotFound,
	libvirt.ERR_NO_NETWORK:              ErrNotFound,
	libvirt.ERR_NO_DOMAIN_METADATA:      ErrNotFound,
	libvirt.ERR_NO_NETWORK_METADATA:     ErrNotFound,
	libvirt.ERR_OPERATION_INVALID:       ErrConflict,
	libvirt.ERR_DOM_EXIST:               ErrConflict,
	libvirt.ERR_NETWORK_EXIST:           ErrConflict,
	libvirt.ERR_RESOURCE_BUSY:           ErrBusy,
	libvirt.ERR_OPERATION_TIMEOUT:       ErrBusy, // the job lock was not free within 30 s
	libvirt.ERR_NO_MEMORY:               ErrExhausted,
	libvirt.ERR_NO_SUPPORT:              ErrUnsupported,
	libvirt.ERR_CONFIG_UNSUPPORTED:      ErrUnsupported,
	libvirt.ERR_OPERATION_UNSUPPORTED:   ErrUnsupported,
	libvirt.ERR_ARGUMENT_UNSUPPORTED:    ErrUnsupported,
	libvirt.ERR_CPU_INCOMPATIBLE:        ErrUnsupported,
	libvirt.ERR_NO_CONNECT:              ErrUnavailable,
	libvirt.ERR_INVALID_CONN:            ErrUnavailable,
	libvirt.ERR_RPC:                     ErrUnavailable,
	libvirt.ERR_NO_SERVER:               ErrUnavailable,
	libvirt.ERR_AUTH_FAILED:             ErrUnavailable,
	libvirt.ERR_AUTH_UNAVAILABLE:        ErrUnavailable,
	libvirt.ERR_OPERATION_ABORTED:       ErrUnavailable,
	libvirt.ERR_AGENT_UNRESPONSIVE:      ErrUnresponsive,
	libvirt.ERR_AGENT_UNSYNCED:          ErrUnresponsive,
	libvirt.ERR_AGENT_COMMAND_TIMEOUT:   ErrUnresponsive,
	libvirt.ERR_AGENT_COMMAND_FAILED:    ErrRefused,
	libvirt.ERR_MIGRATE_UNSAFE:          ErrUnsupported,
	libvirt.ERR_MULTIPLE_DOMAINS:        ErrConflict,
	libvirt.ERR_BLOCK_COPY_ACTIVE:       ErrBusy,
	libvirt.ERR_SNAPSHOT_REVERT_RISKY:   ErrConflict,
	libvirt.ERR_CHECKPOINT_INCONSISTENT: ErrConflict,
}

// texts classifies the three codes that libvirt uses for everything else. The errno that it knows does not
// cross the binding, and QEMU reports its own faults as text, so the text is all there is: this table is the
// one place that reads it. It holds the C locale's strings (the libvirtd of a service has no other).
var texts = []struct {
	text string
	err  error
}{
	{"No space left on device", ErrExhausted},
	{"Disk quota exceeded", ErrExhausted},
	{"Cannot allocate memory", ErrExhausted},
	{"Address already in use", ErrConflict}, // the VNC port, by somebody else
	{"Failed to reserve port", ErrConflict}, // the VNC port, by another domain
}

// class finds the sentinel for an error of libvirt's or of a context; nil when there is none.
func class(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ErrUnavailable
	}
	lv, ok := errors.AsType[libvirt.Error](err)
	if !ok {
		return nil
	}
	if c, ok := codes[lv.Code]; ok {
		return c
	}
	if lv.Domain == libvirt.FROM_RPC && (lv.Code == libvirt.ERR_SYSTEM_ERROR || lv.Code == libvirt.ERR_INTERNAL_ERROR) {
		return ErrUnavailable // "End of file while reading data", "connection closed due to keepalive timeout", and others
	}
	switch lv.Code {
	case libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_SYSTEM_ERROR, libvirt.ERR_OPERATION_FAILED:
	default:
		return nil
	}
	for _, t := range texts {
		if strings.Contains(lv.Message, t.text) {
			return t.err
		}
	}
	return nil
}

// wrap says what was being done, and adds the sentinel unless err carries one already.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	c := class(err)
	if c == nil || errors.Is(err, c) {
		return fmt.Errorf("domain: %s: %w", what, err)
	}
	return fmt.Errorf("domain: %s: %w: %w", what, c, err)
}

// isCode reports whether err is libvirt's error with that code.
func isCode(err error, code libvirt.ErrorNumber) bool {
	lv, ok := errors.AsType[libvirt.Error](err)
	return ok && lv.Code == code
}
