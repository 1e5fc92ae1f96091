package store

import (
	"database/sql"
	"time"
)

// Metadef is a record of the catalogue of metadata definitions.
type Metadef struct {
	Namespace     string
	DisplayName   string
	Description   string
	Visibility    Visibility
	Protected     bool
	Owner         string
	ResourceTypes string // JSON, as Properties and Objects; the store only keeps it
	Properties    string
	Objects       string
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

const metadefInsert = `INSERT INTO metadefs (namespace, display_name, description, visibility, protected, owner, resource_types, properties,
	objects, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) `

func (m Metadef) values() []any {
	return []any{m.Namespace, m.DisplayName, m.Description, m.Visibility, m.Protected, m.Owner, m.ResourceTypes, m.Properties, m.Objects,
		stamp(m.CreatedAt), stamp(m.UpdatedAt)}
}

// InsertMetadef writes a new record; ErrTaken when its namespace is there.
func (t *Tx) InsertMetadef(m Metadef) error {
	_, err := t.exec(metadefInsert, m.values()...)
	return err
}

// SeedMetadef writes a record unless its namespace is there.
func (t *Tx) SeedMetadef(m Metadef) error {
	_, err := t.exec(metadefInsert+`ON CONFLICT DO NOTHING`, m.values()...)
	return err
}

// PutMetadef writes a record, or writes it over; the time of its creation and its owner stay what they were.
func (t *Tx) PutMetadef(m Metadef) error {
	_, err := t.exec(metadefInsert+`ON CONFLICT (namespace) DO UPDATE SET display_name = excluded.display_name,
		description = excluded.description, visibility = excluded.visibility, protected = excluded.protected,
		resource_types = excluded.resource_types, properties = excluded.properties, objects = excluded.objects,
		updated_at = max(updated_at, excluded.updated_at)`, m.values()...)
	return err
}

const metadefQuery = `SELECT namespace, display_name, description, visibility, protected, owner, resource_types, properties, objects,
	created_at, updated_at FROM metadefs `

func scanMetadef(s scanner) (m Metadef, err error) {
	var created, updated sql.NullInt64
	err = s.Scan(&m.Namespace, &m.DisplayName, &m.Description, &m.Visibility, &m.Protected, &m.Owner, &m.ResourceTypes, &m.Properties,
		&m.Objects, &created, &updated)
	m.CreatedAt, m.UpdatedAt = unstamp(created), unstamp(updated)
	return m, err
}

// Metadef reads one record; ErrNotFound otherwise.
func (t *Tx) Metadef(namespace string) (Metadef, error) {
	return first(t, scanMetadef, metadefQuery+`WHERE namespace = ?`, namespace)
}

// Metadefs reads every record, by namespace.
func (t *Tx) Metadefs() ([]Metadef, error) {
	return all(t, scanMetadef, metadefQuery+`ORDER BY namespace`)
}

// DeleteMetadef removes a record; ErrNotFound when there is none.
func (t *Tx) DeleteMetadef(namespace string) error {
	return t.one(ErrNotFound, `DELETE FROM metadefs WHERE namespace = ?`, namespace)
}
