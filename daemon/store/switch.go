package store

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"time"
)

// Switch is the record of one switch. Each holds the hash of the one before it, over the whole host: one that was altered
// or taken out no longer fits its neighbours.
type Switch struct {
	Seq       int64
	At        time.Time
	Capsule   string
	Operation string
	Body      string // JSON
	Previous  string
	Hash      string
}

// digest covers every field; lengths keep one field from running into the next.
func (s Switch) digest() string {
	h := sha256.New()
	for _, part := range []string{fmt.Sprint(s.Seq), fmt.Sprint(s.At.UnixMicro()), s.Capsule, s.Operation, s.Previous, s.Body} {
		fmt.Fprintf(h, "%d:%s\n", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

const switchQuery = `SELECT seq, at, capsule, operation, body, previous, hash FROM switches `

func scanSwitch(s scanner) (r Switch, err error) {
	var at sql.NullInt64
	err = s.Scan(&r.Seq, &at, &r.Capsule, &r.Operation, &r.Body, &r.Previous, &r.Hash)
	r.At = unstamp(at)
	return r, err
}

// lastSeq is the number of the newest record that there ever was, though somebody removed it (sqlite.org/autoinc.html).
func (t *Tx) lastSeq() (int64, error) {
	n, err := all(t, func(s scanner) (n int64, err error) { return n, s.Scan(&n) }, `SELECT seq FROM sqlite_sequence WHERE name = 'switches'`)
	if len(n) == 0 {
		return 0, err
	}
	return n[0], err
}

// AppendSwitch adds a record to the end of the chain.
func (t *Tx) AppendSwitch(capsule, operation, body string, at time.Time) (Switch, error) {
	last, err := all(t, scanSwitch, switchQuery+`ORDER BY seq DESC LIMIT 1`)
	if err != nil {
		return Switch{}, err
	}
	r := Switch{At: at.Truncate(time.Microsecond), Capsule: capsule, Operation: operation, Body: body}
	if len(last) == 1 {
		r.Previous = last[0].Hash
	}
	if r.Seq, err = t.lastSeq(); err != nil {
		return Switch{}, err
	}
	r.Seq++
	r.Hash = r.digest()
	_, err = t.exec(`INSERT INTO switches (seq, at, capsule, operation, body, previous, hash) VALUES (`+marks(7)+`)`,
		r.Seq, stamp(r.At), r.Capsule, r.Operation, r.Body, r.Previous, r.Hash)
	return r, err
}

// Switches reads the records of a capsule, newest first.
func (t *Tx) Switches(capsule string, limit int) ([]Switch, error) {
	return all(t, scanSwitch, switchQuery+`WHERE capsule = ? ORDER BY seq DESC LIMIT ?`, capsule, limit)
}

// CheckSwitches walks the whole chain: how long it is, the hash at its end, and in words where it is broken ("" when it
// is whole). It sees a record that was altered, added, or taken out, at the end too; a whole chain that was written
// anew it does not see: compare its head with one that was written down elsewhere (the log has each).
func (t *Tx) CheckSwitches() (length int64, head, fault string, err error) {
	rows, err := t.tx.QueryContext(t.ctx, switchQuery+`ORDER BY seq`)
	if err != nil {
		return 0, "", "", wrap(err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanSwitch(rows)
		if err != nil {
			return 0, "", "", wrap(err)
		}
		length++
		switch {
		case fault != "":
		case r.Seq != length:
			fault = fmt.Sprintf("record %d is missing", length)
		case r.Previous != head:
			fault = fmt.Sprintf("record %d does not follow from the one before it", r.Seq)
		case r.digest() != r.Hash:
			fault = fmt.Sprintf("record %d was altered", r.Seq)
		}
		head = r.Hash
	}
	if err := rows.Err(); err != nil {
		return 0, "", "", wrap(err)
	}
	last, err := t.lastSeq()
	if fault == "" && err == nil && last != length {
		fault = fmt.Sprintf("record %d is missing", last)
	}
	return length, head, fault, err
}
