package store

import "context"

// Exec runs any statement, as an intruder would.
func Exec(ctx context.Context, db *DB, q string) error {
	return db.Update(ctx, func(t *Tx) error { _, err := t.exec(q); return err })
}
