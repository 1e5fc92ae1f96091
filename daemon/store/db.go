package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
)

var (
	// ErrNotFound means that no record has that id.
	ErrNotFound = errors.New("no such record")
	// ErrStale means that the record was not in the state that the change starts from.
	ErrStale = errors.New("record has moved on")
	// ErrTaken means that a unique thing (name, port, address, the one operation of a target) has a holder.
	ErrTaken = errors.New("taken")
	// ErrFull means that the disk has no room for the change.
	ErrFull = errors.New("no room on the disk for the records")
)

// DB is the open record store. It is safe for concurrent use.
type DB struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB

	imageVersion *sql.Stmt
	writes       atomic.Int64
}

// Open opens or creates the store at path, readable by its owner alone, and brings its schema up to date. It
// refuses a store that a newer version wrote.
func Open(ctx context.Context, path string) (*DB, error) {
	// Created here so that its mode is never wider than 0600, whatever the umask: it holds console passwords.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f.Close()
	const common = "?_journal_mode=WAL&_synchronous=FULL&_foreign_keys=1&_busy_timeout=10000"
	write, err := sql.Open("sqlite3", "file:"+escape(path)+common+"&_txlock=immediate&_secure_delete=1")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite3", "file:"+escape(path)+common+"&_query_only=1")
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("store: %w", err)
	}
	read.SetMaxOpenConns(4)
	db := &DB{write: write, read: read}
	if err := db.migrate(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if db.imageVersion, err = read.PrepareContext(ctx, imageVersionQuery); err != nil {
		db.Close()
		return nil, fmt.Errorf("%s: %w", path, wrap(err))
	}
	return db, nil
}

// escape keeps a path from being read as part of the URI's query (sqlite.org/uri.html, section 3.1).
func escape(path string) string {
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		switch c := path[i]; c {
		case '?', '#', '%':
			out = fmt.Appendf(out, "%%%02x", c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// Close closes the store.
func (db *DB) Close() error { return errors.Join(db.read.Close(), db.write.Close()) }

// Checkpoint moves everything into the main file and empties the log beside it, so that what was erased is not to be read
// there. It waits for writers, not for readers: what a reader keeps there goes with the next one.
func (db *DB) Checkpoint(ctx context.Context) error {
	_, err := db.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return wrap(err)
}

// Tx is one transaction. It must not be kept beyond the function it was given to.
type Tx struct {
	ctx context.Context
	tx  *sql.Tx
}

// Update runs f in a write transaction, commits when f returns nil and rolls back otherwise.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	defer db.writes.Add(1) // whatever came of it: that a failed commit changed nothing is not known for sure
	return run(ctx, db.write, f)
}

// Writes is how many calls of Update have come to an end. While it stays the same, what was read after it was asked for is
// still what is on the disk, but for what an Update has written that has not returned yet.
func (db *DB) Writes() int64 { return db.writes.Load() }

// View runs f on a snapshot that no writer changes; writes in f are refused by SQLite.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error { return run(ctx, db.read, f) }

func run(ctx context.Context, pool *sql.DB, f func(*Tx) error) (err error) {
	defer func() {
		// database/sql rolls back when ctx ends, and what comes of that is told in many words.
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("store: %w: %w", ctx.Err(), err)
		}
	}()
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return wrap(err)
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := f(&Tx{ctx: ctx, tx: tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return wrap(err)
	}
	return nil
}

func (t *Tx) exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, wrap(err)
	}
	return res.RowsAffected()
}

// one runs a statement that must change exactly one row; none is reported as missing.
func (t *Tx) one(missing error, query string, args ...any) error {
	n, err := t.exec(query, args...)
	if err == nil && n != 1 {
		err = fmt.Errorf("store: %w", missing)
	}
	return err
}

// all reads every row of a query with scan.
func all[T any](t *Tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		return nil, wrap(err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, wrap(err)
		}
		out = append(out, v)
	}
	return out, wrap(rows.Err())
}

// first reads the one row of a query with scan, or ErrNotFound.
func first[T any](t *Tx, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(t.tx.QueryRowContext(t.ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("store: %w", ErrNotFound)
	}
	return v, wrap(err)
}

type scanner interface{ Scan(...any) error }

// stamp and unstamp turn times into integers (microseconds since 1970): SQLite has no time type, and integers sort.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func unstamp(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
