package e2e

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSecureRecords changes the records of switches while no daemon runs. The proof, the list of records and the doctor
// all say so.
func TestSecureRecords(t *testing.T) {
	v := newVault(t, `secure.mount_wait = "1s"`, `secure.flush_wait = "1s"`)
	v.secure()
	v.maintenance()
	v.secure()
	v.proved()
	v.ctl("records", "--verify", v.id)
	v.ctl("stop", "--wait", v.id)
	for _, row := range []struct{ name, query, says string }{
		{"a record altered", "UPDATE switches SET body = replace(body, 'root', 'nobody') WHERE seq = 2", "record 2"},
		{"the time of a record altered", "UPDATE switches SET at = at + 1 WHERE seq = 1", "record 1"},
		{"a record removed", "DELETE FROM switches WHERE seq = 2", "record"},
		{"the newest removed", "DELETE FROM switches WHERE seq = (SELECT max(seq) FROM switches)", "record"},
		{"all removed", "DELETE FROM switches", "record"},
	} {
		v.run(row.name, func() {
			if err := v.Stop(); err != nil {
				v.t.Fatal(err)
			}
			path := filepath.Join(v.dir, "capsuled.db")
			whole, err := os.ReadFile(path)
			if err != nil {
				v.t.Fatal(err)
			}
			v.records(func(db *sql.DB) error {
				for _, q := range []string{"DROP TRIGGER switch_keep", "DROP TRIGGER switch_fixed", row.query} {
					if _, err := db.Exec(q); err != nil {
						return err
					}
				}
				return nil
			})
			v.start()
			v.refused(11, row.says, "prove", v.id)
			v.refused(11, row.says, "records", "--verify", v.id)
			v.refused(11, row.says, "doctor")
			if err := v.Stop(); err != nil {
				v.t.Fatal(err)
			}
			for _, more := range []string{"-wal", "-shm"} {
				_ = os.Remove(path + more)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				v.t.Fatal(err)
			}
			v.start()
			v.proved()
		})
	}
	kinds := []string{}
	for line := range strings.Lines(v.ctl("records", v.id)) {
		if f := strings.Fields(line); len(f) > 3 {
			kinds = append(kinds, f[2])
		}
	}
	if want := []string{"KIND", "stop", "enter", "leave", "enter"}; !slices.Equal(kinds, want) {
		t.Errorf("the records are of %v, and should be of %v", kinds, want)
	}
}
