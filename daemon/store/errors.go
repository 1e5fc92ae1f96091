package store

import (
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"
)

// wrap names the errors that callers tell apart, and those that an operator must act on.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		switch e.ExtendedCode {
		case sqlite3.ErrConstraintUnique, sqlite3.ErrConstraintPrimaryKey:
			return fmt.Errorf("store: %w: %w", ErrTaken, err)
		}
		switch e.Code {
		case sqlite3.ErrFull:
			return fmt.Errorf("store: %w: %w", ErrFull, err)
		case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
			return fmt.Errorf("store: the records are damaged; stop the daemon and restore capsuled.db from a backup, without its -wal and -shm files: %w", err)
		}
	}
	return fmt.Errorf("store: %w", err)
}
