package store

import (
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"
)

// wrap turns a broken uniqueness rule into ErrTaken and leaves every other error as it is.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		switch e.ExtendedCode {
		case sqlite3.ErrConstraintUnique, sqlite3.ErrConstraintPrimaryKey:
			return fmt.Errorf("store: %w: %w", ErrTaken, err)
		}
	}
	return fmt.Errorf("store: %w", err)
}
