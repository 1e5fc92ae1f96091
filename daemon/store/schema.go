package store

import (
	"context"
	"fmt"
)

// migrations bring the schema from version i to i+1, in order; PRAGMA user_version says where a store is. A
// migration that has landed is never edited: a change is a new one.
var migrations = []string{
	// 1: capsules, images, users, operations, audit, settings
	`
CREATE TABLE users (
	guid       TEXT PRIMARY KEY,
	email      TEXT NOT NULL DEFAULT '',
	tou        INTEGER NOT NULL DEFAULT 0,
	public_key TEXT
) STRICT;

CREATE TABLE images (
	id             TEXT PRIMARY KEY,
	name           TEXT NOT NULL,
	description    TEXT NOT NULL,
	state          TEXT NOT NULL,
	public         INTEGER NOT NULL,
	owner          TEXT NOT NULL REFERENCES users,
	charged        INTEGER NOT NULL,     -- counts against the owner's image quota
	digest         TEXT NOT NULL DEFAULT '',
	format         TEXT NOT NULL DEFAULT '',
	file_bytes     INTEGER NOT NULL DEFAULT 0,
	virtual_bytes  INTEGER NOT NULL DEFAULT 0,
	login_user     TEXT NOT NULL,
	login_password TEXT NOT NULL,
	created_at     INTEGER NOT NULL,
	updated_at     INTEGER NOT NULL,
	deleted_at     INTEGER
) STRICT;
CREATE UNIQUE INDEX image_name ON images (name) WHERE deleted_at IS NULL;
CREATE INDEX image_digest ON images (digest) WHERE deleted_at IS NULL;

CREATE TABLE capsules (
	id             TEXT PRIMARY KEY,
	key            TEXT NOT NULL UNIQUE, -- name of the domain, the tap and the chains
	state          TEXT NOT NULL,
	mode           TEXT NOT NULL,
	cause          TEXT NOT NULL DEFAULT '',
	version        INTEGER NOT NULL DEFAULT 1, -- counts its moves: where it is the same, nothing has moved
	provisioned    INTEGER NOT NULL DEFAULT 0, -- its files, lease and domain were all made once
	charged        INTEGER NOT NULL DEFAULT 1, -- counts against the owner's quota
	type           TEXT NOT NULL,
	owner          TEXT NOT NULL REFERENCES users,
	image_id       TEXT NOT NULL REFERENCES images,
	vcpus          INTEGER NOT NULL,
	memory_mb      INTEGER NOT NULL,
	volume_gb      INTEGER NOT NULL,
	spool_gb       INTEGER NOT NULL,
	generation     TEXT NOT NULL,
	login_user     TEXT NOT NULL,
	login_password TEXT NOT NULL,
	image_user     TEXT NOT NULL, -- the image's first login, which outlives the image
	image_password TEXT NOT NULL,
	consent        INTEGER,
	title          TEXT, desc_nature TEXT, desc_requirement TEXT, desc_links TEXT, desc_outside_data TEXT,
	rr_data_files  TEXT, rr_result_usage TEXT, desc_shared TEXT,
	created_at     INTEGER NOT NULL,
	deleted_at     INTEGER
) STRICT;

CREATE TABLE ports (
	port    INTEGER PRIMARY KEY,
	capsule TEXT NOT NULL REFERENCES capsules,
	use     TEXT NOT NULL CHECK (use IN ('ssh', 'vnc')),
	UNIQUE (capsule, use)
) STRICT;

CREATE TABLE addresses (
	address TEXT PRIMARY KEY,
	mac     TEXT NOT NULL UNIQUE,
	capsule TEXT NOT NULL UNIQUE REFERENCES capsules
) STRICT;

CREATE TABLE members (
	capsule     TEXT NOT NULL REFERENCES capsules,
	guid        TEXT NOT NULL REFERENCES users,
	role        TEXT NOT NULL,
	tou         INTEGER NOT NULL,
	full_access INTEGER,
	PRIMARY KEY (capsule, guid)
) STRICT;
CREATE INDEX member_guid ON members (guid);

CREATE TABLE operations (
	id       TEXT PRIMARY KEY,
	kind     TEXT NOT NULL,
	target   TEXT NOT NULL,
	owner    TEXT NOT NULL,               -- may see it, beside administrators and the target's members
	state    TEXT NOT NULL,
	step     TEXT NOT NULL DEFAULT '',
	steps    TEXT NOT NULL,               -- JSON: [{name, state, seconds}]
	progress INTEGER NOT NULL DEFAULT 0,
	code     TEXT NOT NULL DEFAULT '',
	cause    TEXT NOT NULL DEFAULT '',    -- for everyone who may see it
	detail   TEXT NOT NULL DEFAULT '',    -- for administrators
	argument TEXT NOT NULL DEFAULT '',    -- what the steps need beyond the record
	actor    TEXT NOT NULL,
	origin   TEXT NOT NULL,
	request  TEXT NOT NULL,
	started  INTEGER NOT NULL,
	ended    INTEGER
) STRICT;
CREATE UNIQUE INDEX operation_open ON operations (target) WHERE ended IS NULL;
CREATE INDEX operation_started ON operations (started);
CREATE INDEX operation_target ON operations (target, started);

CREATE TABLE audit (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	at      INTEGER NOT NULL,
	actor   TEXT NOT NULL,
	origin  TEXT NOT NULL,
	request TEXT NOT NULL,
	action  TEXT NOT NULL,
	target  TEXT NOT NULL,
	outcome TEXT NOT NULL,
	detail  TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_keep BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT; -- what the records depend on
`,
	// 2: secure mode
	`
ALTER TABLE capsules ADD COLUMN review INTEGER NOT NULL DEFAULT 0;         -- in secure mode under the policy for review
ALTER TABLE capsules ADD COLUMN clean_point TEXT NOT NULL DEFAULT '';      -- id; '' when there is none to go back to
ALTER TABLE capsules ADD COLUMN clean_stamp TEXT NOT NULL DEFAULT '';      -- what the frozen disk looked like

CREATE TABLE switches (
	seq       INTEGER PRIMARY KEY AUTOINCREMENT,
	at        INTEGER NOT NULL,
	capsule   TEXT NOT NULL,
	operation TEXT NOT NULL,
	body      TEXT NOT NULL,             -- JSON
	previous  TEXT NOT NULL,             -- hash of the record before this one; '' for the first
	hash      TEXT NOT NULL UNIQUE
) STRICT;
CREATE INDEX switch_capsule ON switches (capsule, seq);
CREATE TRIGGER switch_keep BEFORE DELETE ON switches BEGIN SELECT RAISE(ABORT, 'the records of switches are append-only'); END;
CREATE TRIGGER switch_fixed BEFORE UPDATE ON switches BEGIN SELECT RAISE(ABORT, 'the records of switches are append-only'); END;
`,
	// 3: images for everybody
	`
ALTER TABLE images ADD COLUMN visibility TEXT NOT NULL DEFAULT 'private';
UPDATE images SET visibility = 'public' WHERE public;
ALTER TABLE images DROP COLUMN public;
ALTER TABLE images ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;        -- is not to be deleted
ALTER TABLE images ADD COLUMN min_disk_gb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN min_ram_mb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';         -- JSON: an object of strings
ALTER TABLE images ADD COLUMN source_capsule TEXT NOT NULL DEFAULT '';     -- that it was shared from
ALTER TABLE images ADD COLUMN cause TEXT NOT NULL DEFAULT '';              -- why its bytes never came
ALTER TABLE images ADD COLUMN asked_format TEXT NOT NULL DEFAULT '';       -- what its bytes must be; '' for whatever comes
ALTER TABLE images ADD COLUMN asked_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN asked_bytes INTEGER NOT NULL DEFAULT -1;     -- how many were announced; -1 for none
ALTER TABLE images ADD COLUMN upload TEXT NOT NULL DEFAULT '';             -- of the image store, while its bytes come in pieces
ALTER TABLE images ADD COLUMN arrived INTEGER NOT NULL DEFAULT 0;          -- some of its bytes are there, or were
ALTER TABLE images ADD COLUMN peers TEXT NOT NULL DEFAULT '[]';            -- JSON: names of the other hosts that have it
ALTER TABLE images ADD COLUMN version INTEGER NOT NULL DEFAULT 0;          -- one sequence over all images: where nothing is greater, nothing has changed
UPDATE images SET arrived = digest <> '', version = rowid;                 -- rowids differ, and that is all that a beginning needs
CREATE UNIQUE INDEX image_version ON images (version);
DROP INDEX image_name;
CREATE UNIQUE INDEX image_name ON images (name) WHERE deleted_at IS NULL AND name <> '' AND state <> 'DELETE_PENDING'; -- a name is free as soon as its image is on its way out
`,
	// 4: metadata definitions
	`
CREATE TABLE metadefs (
	namespace      TEXT PRIMARY KEY,
	display_name   TEXT NOT NULL,
	description    TEXT NOT NULL,
	visibility     TEXT NOT NULL,
	protected      INTEGER NOT NULL,
	owner          TEXT NOT NULL,
	resource_types TEXT NOT NULL, -- JSON: [{name, prefix, properties_target}]
	properties     TEXT NOT NULL, -- JSON: {name: definition}
	objects        TEXT NOT NULL, -- JSON: [definition]
	created_at     INTEGER NOT NULL,
	updated_at     INTEGER NOT NULL
) STRICT;
`,
	// 5: what the steps of an operation found, for those that come after a restart
	`
ALTER TABLE operations ADD COLUMN cut INTEGER;                             -- connections; NULL when nobody knows how many
ALTER TABLE operations ADD COLUMN reserved TEXT NOT NULL DEFAULT '';       -- what is not as it should be and does not fail it
`,
}

func (db *DB) migrate(ctx context.Context) error {
	var version int
	read := func(t *Tx) error {
		return wrap(t.tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version))
	}
	if err := db.View(ctx, read); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("store: schema version %d is newer than this daemon's %d: run the newer daemon, or restore a backup", version, len(migrations))
	}
	if version == len(migrations) {
		return nil // nothing is written: a full disk must not keep the daemon from its capsules
	}
	return db.Update(ctx, func(t *Tx) error {
		if err := read(t); err != nil {
			return err
		}
		for ; version < len(migrations); version++ {
			if _, err := t.exec(migrations[version]); err != nil {
				return fmt.Errorf("store: migration %d: %w", version+1, err)
			}
		}
		_, err := t.exec(fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}
