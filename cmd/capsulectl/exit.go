package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// Exit statuses that no code of the daemon stands for.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitDenied      = 5
	exitUnreachable = 7
	exitFailed      = 8
	exitNotProved   = 11
	exitUnknown     = 12
	exitInterrupted = 130
)

// exits is the table of exit statuses: what --help and the reference print, and how a code of the daemon becomes a status.
var exits = []struct {
	status  int
	meaning string
	codes   []string
}{
	{exitOK, "success", nil},
	{exitOther, "internal error of the daemon, one on this side, or a fault in a policy file", []string{client.Internal}},
	{exitUsage, "wrong usage: nothing was sent", nil},
	{3, "no such capsule, image or operation", []string{client.NotFound}},
	{4, "the state does not allow it, a name is taken, or another operation runs", []string{client.Conflict, client.Gone, client.Busy}},
	{exitDenied, "no valid identity, or it may not do this", []string{client.Unauthorized, client.Forbidden}},
	{6, "quota or capacity of the host exhausted", []string{client.OverQuota, client.Exhausted}},
	{exitUnreachable, "daemon or libvirt not reachable, or no answer in time", []string{client.Unavailable}},
	{exitFailed, "the operation that was waited for failed", nil},
	{9, "refused as invalid, or an ambiguous id", []string{client.Invalid}},
	{10, "not supported by this host", []string{client.Unsupported}},
	{exitNotProved, "not proved, or something looked at is not as it should be", nil},
	{exitUnknown, "neither proved nor disproved: something could not be looked at", nil},
	{exitInterrupted, "interrupted by a signal", nil},
}

// exitStatus is the exit status for err.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[failedError](err); ok {
		return exitFailed
	}
	if e, ok := errors.AsType[answerError](err); ok {
		return e.status
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if _, ok := errors.AsType[*client.Unreachable](err); ok {
		if errors.Is(err, fs.ErrPermission) {
			return exitDenied
		}
		return exitUnreachable
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		for _, exit := range exits {
			if slices.Contains(exit.codes, e.Code) {
				return exit.status
			}
		}
	}
	return exitOther
}

// exitHelp is the table as --help prints it.
func exitHelp() string {
	var b strings.Builder
	b.WriteString("Exit status:\n")
	for _, exit := range exits {
		fmt.Fprintf(&b, "  %3d  %s\n", exit.status, exit.meaning)
	}
	return b.String()
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// failedError is an operation that was waited for and failed. It is no *client.Error: the call itself went well.
type failedError struct{ op wire.Operation }

func (e failedError) Error() string {
	op := e.op
	return fmt.Sprintf("%s of %s failed at %q: %s (%s, operation %s)", op.Kind, op.Target, op.Step, op.Cause, op.Code, op.ID)
}

// answerError is a call that went well and whose answer is no: status is the exit status, text says why where the
// answer itself does not.
type answerError struct {
	status int
	text   string
}

func (e answerError) Error() string { return e.text }

// interruptedError ends a wait; the operations go on.
type interruptedError struct{ ids []string }

func (e interruptedError) Error() string {
	return "interrupted; the daemon goes on, to wait again: capsulectl operation wait " + strings.Join(e.ids, " ")
}

func (e interruptedError) Unwrap() error { return context.Canceled }

// reported is an error that has been printed already.
type reported struct{ err error }

func (e reported) Error() string { return e.err.Error() }
func (e reported) Unwrap() error { return e.err }

// complain prints err.
func (a *app) complain(err error) {
	text := err.Error()
	if err == context.Canceled {
		text = "interrupted"
	}
	fmt.Fprintf(a.err, "capsulectl: %s\n", printable(text))
}

// each runs act for every item, goes on after an error, and returns the first one, reported. A signal ends it at once.
func each[T any](a *app, items []T, act func(T) error) error {
	var first error
	for _, item := range items {
		err := act(item)
		switch {
		case err == nil:
		case errors.Is(err, context.Canceled):
			return err
		default:
			a.complain(err)
			if first == nil {
				first = reported{err}
			}
		}
	}
	return first
}
