package store

import "context"

// Exec runs any statement, as an intruder would.
func Exec(ctx context.Context, db *DB, q string) error {
	return db.Update(ctx, func(t *Tx) error { _, err := t.exec(q); return err })
}

// Migrations are the first n.
func Migrations(n int) []string { return append([]string(nil), migrations[:n]...) }

// Plan is how SQLite would answer a query, in its words.
func Plan(ctx context.Context, db *DB, q string) (plan string, err error) {
	err = db.View(ctx, func(t *Tx) error {
		plan, err = first(t, func(s scanner) (p string, err error) {
			var n int
			return p, s.Scan(&n, &n, &n, &p)
		}, "EXPLAIN QUERY PLAN "+q)
		return err
	})
	return plan, err
}
