package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Operation is the journal of one act.
type Operation struct {
	ID       string
	Kind     string
	Target   string
	Owner    string // may see it, beside administrators and the target's members
	State    string
	Step     string
	Steps    []Step
	Progress int
	Code     string
	Cause    string // for everyone who may see it
	Detail   string // for administrators
	Argument string // what the steps need beyond the record
	Cut      *int   // connections that its steps cut; nil when nobody knows how many
	Reserved string // what is not as it should be and does not fail it, such as a guest that mounts nothing
	Actor    string
	Origin   string
	Request  string
	Started  time.Time
	Ended    time.Time // zero while it is open
}

// Step is one part of an operation.
type Step struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	Note    string  `json:"note,omitempty"` // what it found, such as how many connections it cut
}

// InsertOperation opens an operation; ErrTaken when its target has an open one.
func (t *Tx) InsertOperation(o Operation) error {
	steps, err := json.Marshal(o.Steps)
	if err != nil {
		return fmt.Errorf("store: steps: %w", err)
	}
	_, err = t.exec(`INSERT INTO operations (id, kind, target, owner, state, step, steps, argument, actor, origin, request, started)
		VALUES (`+marks(12)+`)`, o.ID, o.Kind, o.Target, o.Owner, o.State, o.Step, string(steps), o.Argument, o.Actor, o.Origin, o.Request, stamp(o.Started))
	return err
}

// UpdateOperation writes how an operation goes; with Ended set it closes it. Why it fails is written once and stays: who
// cancels it writes beside the one who carries it out.
func (t *Tx) UpdateOperation(o Operation) error {
	steps, err := json.Marshal(o.Steps)
	if err != nil {
		return fmt.Errorf("store: steps: %w", err)
	}
	return t.one(ErrStale, `UPDATE operations SET state = ?, step = ?, steps = ?, progress = ?,
		code = coalesce(nullif(?, ''), code), cause = coalesce(nullif(?, ''), cause), detail = coalesce(nullif(?, ''), detail),
		cut = ?, reserved = ?, ended = ?
		WHERE id = ? AND ended IS NULL`,
		o.State, o.Step, string(steps), o.Progress, o.Code, o.Cause, o.Detail, o.Cut, o.Reserved, stamp(o.Ended), o.ID)
}

const operationQuery = `SELECT id, kind, target, owner, state, step, steps, progress, code, cause, detail, argument, cut, reserved, actor, origin, request, started, ended
	FROM operations `

func scanOperation(s scanner) (o Operation, err error) {
	var steps string
	var started, ended sql.NullInt64
	if err = s.Scan(&o.ID, &o.Kind, &o.Target, &o.Owner, &o.State, &o.Step, &steps, &o.Progress, &o.Code, &o.Cause, &o.Detail, &o.Argument,
		&o.Cut, &o.Reserved, &o.Actor, &o.Origin, &o.Request, &started, &ended); err != nil {
		return o, err
	}
	o.Started, o.Ended = unstamp(started), unstamp(ended)
	return o, json.Unmarshal([]byte(steps), &o.Steps)
}

// Operation reads one operation; ErrNotFound otherwise.
func (t *Tx) Operation(id string) (Operation, error) {
	return first(t, scanOperation, operationQuery+`WHERE id = ?`, id)
}

// OpenOperation reads the open operation of a target; ErrNotFound when there is none.
func (t *Tx) OpenOperation(target string) (Operation, error) {
	return first(t, scanOperation, operationQuery+`WHERE target = ? AND ended IS NULL`, target)
}

// OpenOperations reads every open operation, oldest first.
func (t *Tx) OpenOperations() ([]Operation, error) {
	return all(t, scanOperation, operationQuery+`WHERE ended IS NULL ORDER BY started, id`)
}

// Operations reads the newest operations. An empty target, state or viewer matches everything; a viewer sees what
// he owns and what is done to capsules in which he has a role.
func (t *Tx) Operations(target, state, viewer string, limit int) ([]Operation, error) {
	return all(t, scanOperation, operationQuery+`WHERE (?1 = '' OR target = ?1) AND (?2 = '' OR state = ?2)
		AND (?3 = '' OR owner = ?3 OR target IN (SELECT capsule FROM members WHERE guid = ?3))
		ORDER BY started DESC, id DESC LIMIT ?4`, target, state, viewer, limit)
}

// PruneOperations forgets operations that ended before a time.
func (t *Tx) PruneOperations(before time.Time) error {
	_, err := t.exec(`DELETE FROM operations WHERE ended < ?`, stamp(before))
	return err
}
