package daemon_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

func ptr[T any](v T) *T { return &v }

// bytesOfItems are items with so many bytes, keys and values together.
func bytesOfItems(n int) map[string]string {
	items := map[string]string{}
	for at := 0; n > 0; at++ {
		key := fmt.Sprint(at)
		items[key] = strings.Repeat("<", min(n-len(key), 60_000))
		n -= len(key) + len(items[key])
	}
	return items
}

// TestSetImage is every change, and what is left when it is refused.
func TestSetImage(t *testing.T) {
	full := map[string]string{}
	for n := range daemon.MaxMetadataItems {
		full[fmt.Sprint(n)] = ""
	}
	have := map[string]string{"a": "1", "b": "2"}
	brim, over := bytesOfItems(daemon.MaxMetadataBytes), bytesOfItems(daemon.MaxMetadataBytes+9) // over is of an older daemon
	but := func(m map[string]string, key, value string) map[string]string {
		m = maps.Clone(m)
		m[key] = value
		return m
	}
	for name, c := range map[string]struct {
		have   map[string]string
		public bool
		change daemon.ImageChange
		code   daemon.Code // to alice, its owner
		want   map[string]string
		check  func(daemon.Image) bool
	}{
		"nothing":           {have: have, want: have},
		"merge":             {have: have, change: daemon.ImageChange{SetMetadata: map[string]string{"b": "3", "c": "4"}}, want: map[string]string{"a": "1", "b": "3", "c": "4"}},
		"replace":           {have: have, change: daemon.ImageChange{SetMetadata: map[string]string{"c": "4"}, ReplaceMetadata: true}, want: map[string]string{"c": "4"}},
		"clear":             {have: have, change: daemon.ImageChange{ReplaceMetadata: true}, want: map[string]string{}},
		"remove":            {have: have, change: daemon.ImageChange{RemoveMetadata: []string{"a", "x"}}, want: map[string]string{"b": "2"}},
		"must remove":       {have: have, change: daemon.ImageChange{RemoveMetadata: []string{"x"}, MustRemove: true}, code: daemon.NotFound, want: have},
		"removed, set":      {have: have, change: daemon.ImageChange{RemoveMetadata: []string{"a"}, SetMetadata: map[string]string{"a": "9"}}, want: map[string]string{"a": "9", "b": "2"}},
		"one too many":      {have: full, change: daemon.ImageChange{SetMetadata: map[string]string{"x": ""}}, code: daemon.OverQuota, want: full},
		"as many as can":    {have: full, change: daemon.ImageChange{SetMetadata: map[string]string{"0": "", "x": ""}, RemoveMetadata: []string{"1"}}, want: func() map[string]string { m := maps.Clone(full); delete(m, "1"); m["x"] = ""; return m }()},
		"as long as can be": {have: but(brim, "0", ""), change: daemon.ImageChange{SetMetadata: map[string]string{"0": brim["0"]}}, want: brim},
		"a byte more":       {have: brim, change: daemon.ImageChange{SetMetadata: map[string]string{"0": brim["0"] + "v"}}, code: daemon.OverQuota, want: brim},
		"a key more":        {have: brim, change: daemon.ImageChange{SetMetadata: map[string]string{"x": ""}}, code: daemon.OverQuota, want: brim},
		"for another":       {have: brim, change: daemon.ImageChange{SetMetadata: map[string]string{"0": "", "x": brim["0"][1:]}}, want: but(but(brim, "0", ""), "x", brim["0"][1:])},
		"long, named":       {have: over, change: daemon.ImageChange{Name: ptr("n")}, want: over},
		"long, longer":      {have: over, change: daemon.ImageChange{SetMetadata: map[string]string{"0": over["0"] + "v"}}, code: daemon.OverQuota, want: over},
		"long, shorter":     {have: over, change: daemon.ImageChange{SetMetadata: map[string]string{"0": over["0"][1:]}}, want: but(over, "0", over["0"][1:])},
		"long, replaced":    {have: over, change: daemon.ImageChange{SetMetadata: brim, ReplaceMetadata: true}, want: brim},
		"a bad key":         {have: have, change: daemon.ImageChange{SetMetadata: map[string]string{"a": "7", "\x01": ""}}, code: daemon.Invalid, want: have},
		"name":              {change: daemon.ImageChange{Name: ptr("new")}, check: func(i daemon.Image) bool { return i.Name == "new" }},
		"no name":           {change: daemon.ImageChange{Name: ptr("")}, check: func(i daemon.Image) bool { return i.Name == "" }},
		"its own name":      {change: daemon.ImageChange{Name: ptr("i")}, check: func(i daemon.Image) bool { return i.Name == "i" }},
		"another's name":    {have: have, change: daemon.ImageChange{Name: ptr("other"), ReplaceMetadata: true}, code: daemon.Conflict, want: have},
		"a bad name":        {change: daemon.ImageChange{Name: ptr("a\nb")}, code: daemon.Invalid},
		"description":       {change: daemon.ImageChange{Description: ptr("d")}, check: func(i daemon.Image) bool { return i.Description == "d" }},
		"long":              {change: daemon.ImageChange{Description: ptr(strings.Repeat("d", daemon.MaxImageDescription+1))}, code: daemon.Invalid},
		"disk and memory":   {change: daemon.ImageChange{MinDiskGB: ptr(1), MinRAMMB: ptr(2)}, check: func(i daemon.Image) bool { return i.MinDiskGB == 1 && i.MinRAMMB == 2 }},
		"negative":          {change: daemon.ImageChange{MinDiskGB: ptr(-1)}, code: daemon.Invalid},
		"login":             {change: daemon.ImageChange{LoginUser: ptr("u"), LoginPassword: ptr("p")}, check: func(i daemon.Image) bool { return i.LoginUser == "u" && i.LoginPassword == "p" }},
		"community":         {change: daemon.ImageChange{Visibility: ptr(daemon.Community)}, check: func(i daemon.Image) bool { return i.Visibility == daemon.Community }},
		"public":            {change: daemon.ImageChange{Visibility: ptr(daemon.Public)}, code: daemon.Forbidden},
		"secret":            {change: daemon.ImageChange{Visibility: ptr(daemon.Visibility("secret"))}, code: daemon.Invalid},
		"protected":         {change: daemon.ImageChange{Protected: ptr(true)}, check: func(i daemon.Image) bool { return i.Protected }},
		"protected, public": {public: true, change: daemon.ImageChange{Protected: ptr(true)}, code: daemon.Forbidden},
		"all as it is":      {public: true, change: daemon.ImageChange{Protected: ptr(false), Visibility: ptr(daemon.Public), Name: ptr("n")}, check: func(i daemon.Image) bool { return i.Name == "n" }},
		"not public":        {public: true, change: daemon.ImageChange{Visibility: ptr(daemon.Private)}, check: func(i daemon.Image) bool { return i.Visibility == daemon.Private }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.put("other", daemon.ImageActive, nil)
			id := b.put("i", daemon.ImageActive, func(i *store.Image) {
				if i.Metadata = maps.Clone(c.have); c.public {
					i.Visibility = daemon.Public
				}
			})
			before, err := b.Image(t.Context(), alice, id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.SetImage(t.Context(), alice, id, c.change)
			if code(err) != c.code {
				t.Fatalf("%q, want %q: %v", code(err), c.code, err)
			}
			now, err2 := b.Image(t.Context(), alice, id)
			if err2 != nil {
				t.Fatal(err2)
			}
			if want := c.want; want != nil {
				if diff := cmp.Diff(want, now.Metadata); diff != "" {
					t.Error(diff)
				}
			}
			if err != nil {
				if diff := cmp.Diff(before, now, cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
					t.Error(diff)
				}
				return
			}
			if diff := cmp.Diff(got, now, cmpopts.IgnoreUnexported(daemon.Image{})); diff != "" {
				t.Error(diff)
			}
			if now.UpdatedAt.Before(before.UpdatedAt) || c.check != nil && !c.check(now) {
				t.Errorf("%+v", now)
			}
		})
	}
}

// BenchmarkSetImage is a merge of one item into metadata that are as long as they can be, of characters that HTML escapes.
func BenchmarkSetImage(b *testing.B) {
	t := newBench(b, nil)
	items := bytesOfItems(daemon.MaxMetadataBytes)
	id := t.put("i", daemon.ImageActive, func(i *store.Image) { i.Metadata = items })
	for b.Loop() {
		if _, err := t.SetImage(b.Context(), alice, id, daemon.ImageChange{SetMetadata: map[string]string{"0": items["0"]}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNoUpdateIsLost: as many requests at once as there are items, and each item is there.
func TestNoUpdateIsLost(t *testing.T) {
	b := newBench(t, nil)
	id := b.put("i", daemon.ImageActive, nil)
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			if _, err := b.SetImage(t.Context(), alice, id, daemon.ImageChange{SetMetadata: map[string]string{fmt.Sprint(n): "", "same": fmt.Sprint(n)}}); err != nil {
				t.Error(err)
			}
			if i, err := b.Image(t.Context(), alice, id); err != nil {
				t.Error(err)
			} else if _, ok := i.Metadata[fmt.Sprint(n)]; !ok {
				t.Errorf("%d is not read after it was written", n)
			}
			if n%2 == 0 {
				if _, err := b.SetImage(t.Context(), alice, id, daemon.ImageChange{RemoveMetadata: []string{fmt.Sprint(n)}, MustRemove: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	i, err := b.Image(t.Context(), alice, id)
	if err != nil || len(i.Metadata) != 21 {
		t.Errorf("%d items are left of 20 and one: %v, %v", len(i.Metadata), i.Metadata, err)
	}
}

// TestTombstonesEnd: after 30 days nobody finds them, though their rows are there.
func TestTombstonesEnd(t *testing.T) {
	b := newBench(t, nil)
	day := 24 * time.Hour
	for name, age := range map[string]time.Duration{"young": 29 * day, "old": 31 * day} {
		id := b.put(name, daemon.ImageActive, nil)
		if _, err := b.Image(t.Context(), alice, id); err != nil { // the catalog has it
			t.Fatal(err)
		}
		if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.BuryImage(id, daemon.ImageError, "why", time.Now().Add(-age))
		}); err != nil {
			t.Fatal(err)
		}
		want := map[bool]daemon.Code{true: daemon.NotFound, false: ok}[name == "old"]
		for restarted := range 2 {
			if _, err := b.Image(t.Context(), alice, id); code(err) != want {
				t.Errorf("%s, %d: %v", name, restarted, err)
			}
			if _, err := b.RequestImageDelete(t.Context(), bob, id); code(err) != daemon.NotFound {
				t.Errorf("%s: %v", name, err)
			}
			page, err := b.FindImages(t.Context(), alice, daemon.ImageQuery{ChangedSince: time.Unix(1, 0), Name: nil, States: []daemon.ImageState{daemon.ImageError}})
			if err != nil || (len(page.Images) > 0) != (name == "young" || len(page.Images) == 1 && page.Images[0].ID != id) {
				t.Errorf("%s, %d: %+v, %v", name, restarted, page, err)
			}
			b.kill()
			b.start()
		}
	}
}

// TestTombstonesAreBounded: whoever makes and deletes images over and over fills neither the memory nor the records, and
// what is left of an image has nothing of its metadata.
func TestTombstonesAreBounded(t *testing.T) {
	b := newBench(t, nil)
	id := b.put("i", daemon.ImageActive, func(i *store.Image) { i.Metadata = map[string]string{"k": "v"} })
	b.create(alice, id)
	if i, err := b.RequestImageDelete(t.Context(), alice, id); err != nil || i.State != daemon.ImageDeletePending || i.Metadata == nil || len(i.Metadata) != 0 {
		t.Fatalf("%+v, %v", i, err) // the collector may take its time, and its quota is free
	}
	b.succeed(b.PurgeImage(t.Context(), alice, id))
	const more = 50
	if err := b.exec(`INSERT INTO images (id, name, description, state, owner, charged, login_user, login_password, created_at, updated_at, deleted_at, version)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
		SELECT 'dead' || i, '', '', 'DELETED', 'alice', 0, '', '', ?2 + i, ?2 + i, ?2 + i, 1000 + i FROM n`,
		daemon.MaxTombstones+more, time.Now().UnixMicro()); err != nil {
		t.Fatal(err)
	}
	tombstones := func() (list, rows int) {
		page, err := b.FindImages(t.Context(), alice, daemon.ImageQuery{States: []daemon.ImageState{daemon.ImageDeleted}})
		if err != nil {
			t.Fatal(err)
		}
		b.records(func(tx *store.Tx) error {
			all, err := tx.ImagesChanged(0, time.Unix(0, 0))
			for _, i := range all {
				if !i.DeletedAt.IsZero() {
					rows++
				}
			}
			return err
		})
		return len(page.Images), rows
	}
	if list, _ := tombstones(); list != daemon.MaxTombstones {
		t.Errorf("%d tombstones are listed", list)
	}
	v, _, err := b.AddImage(t.Context(), alice, daemon.NewImage{Name: "n", Metadata: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	// The one that a capsule was made from stays, and is no more than the others to whoever lists them.
	if list, rows := tombstones(); list != daemon.MaxTombstones || rows != daemon.MaxTombstones+1 {
		t.Errorf("%d tombstones are listed, of %d", list, rows)
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, v.ID); err != nil {
		t.Fatal(err)
	}
	if i, err := b.Image(t.Context(), alice, v.ID); err != nil || i.State != daemon.ImageDeleted || len(i.Metadata) != 0 {
		t.Errorf("%+v, %v", i, err)
	}
	b.records(func(tx *store.Tx) error {
		i, err := tx.ImageEver(v.ID)
		if len(i.Metadata) != 0 {
			t.Errorf("%v is left in the records", i.Metadata)
		}
		return err
	})
	b.settled()
}
