package daemon_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// naive is what a list is by the words of the query: everything that fits, sorted, cut.
func naive(all []store.Image, c daemon.Caller, q daemon.ImageQuery) (ids []string, more bool, code daemon.Code) {
	admin := slices.Contains(c.Roles, daemon.RoleAdmin)
	var fit []store.Image
	var marker *store.Image
	for _, i := range all {
		dead := !i.DeletedAt.IsZero()
		name, size := i.Name, i.FileBytes
		if dead {
			name, size = "", 0
		}
		states := q.States
		if len(states) == 0 {
			states = []daemon.ImageState{daemon.ImageActive, daemon.ImagePending}
			if !q.ChangedSince.IsZero() {
				states = append(states, daemon.ImageDeletePending, daemon.ImageDeleted, daemon.ImageError)
			}
		}
		own := i.Owner == c.GUID
		may := admin || own || (i.Visibility == daemon.Public || i.Visibility == daemon.Community && q.Visibility == daemon.Community) && i.State != daemon.ImageError && i.Cause == ""
		fits := slices.Contains(states, i.State) && may
		fits = fits && (!dead || time.Since(i.DeletedAt) < 30*24*time.Hour)
		fits = fits && (!q.Own || own) && (q.Name == nil || name == *q.Name) && (q.Owner == "" || q.Owner == i.Owner)
		fits = fits && (q.Visibility == "" || q.Visibility == i.Visibility) && (q.Protected == nil || *q.Protected == i.Protected)
		fits = fits && (q.Arrived == nil || i.State != daemon.ImagePending || *q.Arrived == i.Arrived)
		fits = fits && !i.UpdatedAt.Before(q.ChangedSince) && (q.SourceCapsule == "" || q.SourceCapsule == i.SourceCapsule)
		fits = fits && (q.MinRAMMB == nil || *q.MinRAMMB == i.MinRAMMB) && (q.MinDiskGB == nil || *q.MinDiskGB == i.MinDiskGB)
		fits = fits && (q.SizeMin == nil || size >= *q.SizeMin) && (q.SizeMax == nil || size <= *q.SizeMax)
		for k, v := range q.Metadata {
			got, ok := i.Metadata[k]
			fits = fits && ok && got == v
		}
		if i.ID == q.Marker && (own || admin || i.Visibility != daemon.Private && i.State != daemon.ImageError && i.Cause == "") && (!dead || time.Since(i.DeletedAt) < 30*24*time.Hour) {
			marker = &i // as it was while it lived, if it is not in the list
		}
		if fits {
			i.Name, i.FileBytes = name, size
			fit = append(fit, i)
		}
	}
	ordered := func(a, b store.Image) int {
		by := 0
		switch q.Sort {
		case daemon.ByName:
			by = cmp.Compare(a.Name, b.Name)
		case daemon.BySize:
			by = cmp.Compare(a.FileBytes, b.FileBytes)
		case daemon.ByState:
			by = cmp.Compare(a.State, b.State)
		case daemon.ByUpdated:
			by = a.UpdatedAt.Compare(b.UpdatedAt)
		case daemon.ByID:
			by = cmp.Compare(a.ID, b.ID)
		}
		order := cmp.Or(by, a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		if !q.Ascending {
			order = -order
		}
		return order
	}
	slices.SortFunc(fit, ordered)
	if q.Marker != "" {
		if marker == nil {
			return nil, false, daemon.Invalid
		}
		fit = slices.DeleteFunc(fit, func(i store.Image) bool { return ordered(i, *marker) <= 0 })
	}
	if q.Nothing {
		return nil, false, ""
	}
	if q.Limit > 0 && len(fit) > q.Limit {
		fit, more = fit[:q.Limit], true
	}
	for _, i := range fit {
		ids = append(ids, i.ID)
	}
	return ids, more, ""
}

// TestCatalog changes images at random and asks for them at random: the catalog says what the records do.
func TestCatalog(t *testing.T) {
	owners, visibilities := []string{"alice", "bob"}, []daemon.Visibility{daemon.Private, daemon.Public, daemon.Shared, daemon.Community}
	states := []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageDeletePending, daemon.ImageDeleted, daemon.ImageError}
	start := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	minute := func(r *rapid.T, what string) time.Time {
		return start.Add(time.Duration(rapid.IntRange(0, 9).Draw(r, what)) * time.Minute)
	}
	small := rapid.IntRange(0, 2)
	rapid.Check(t, func(r *rapid.T) {
		b := newBench(t, nil)
		defer b.kill()
		var all []store.Image
		read := func() {
			all = nil
			if err := b.db.View(t.Context(), func(tx *store.Tx) (err error) { all, err = tx.ImagesChanged(0, time.Unix(0, 0)); return err }); err != nil {
				r.Fatal(err)
			}
		}
		write := func(f func(*store.Tx) error) {
			if err := b.db.Update(t.Context(), f); err != nil {
				r.Fatal(err)
			}
		}
		write(func(tx *store.Tx) error { return errors.Join(tx.PutUser("alice", ""), tx.PutUser("bob", "")) })
		ids := 0
		r.Repeat(map[string]func(*rapid.T){
			"add": func(r *rapid.T) {
				read()
				if len(all) > 60 {
					r.Skip()
				}
				ids++
				i := store.Image{ID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", ids*7919%10_000), Owner: rapid.SampledFrom(owners).Draw(r, "owner"), State: daemon.ImagePending, AskedBytes: -1,
					Visibility: rapid.SampledFrom(visibilities).Draw(r, "visibility"), SourceCapsule: rapid.SampledFrom([]string{"", "c"}).Draw(r, "source"), CreatedAt: minute(r, "created")}
				write(func(tx *store.Tx) error { return tx.InsertImage(i) })
			},
			"change": func(r *rapid.T) {
				read()
				if len(all) == 0 {
					r.Skip()
				}
				i := rapid.SampledFrom(all).Draw(r, "image")
				if !i.DeletedAt.IsZero() {
					r.Skip()
				}
				i.State = rapid.SampledFrom(states).Draw(r, "state")
				i.Arrived, i.Protected = rapid.Bool().Draw(r, "arrived"), rapid.Bool().Draw(r, "protected")
				i.FileBytes, i.MinRAMMB, i.MinDiskGB = int64(small.Draw(r, "size")), small.Draw(r, "ram"), small.Draw(r, "disk")
				i.Metadata = map[string]string{rapid.SampledFrom([]string{"a", "b"}).Draw(r, "key"): rapid.SampledFrom([]string{"1", "2"}).Draw(r, "value")}
				if rapid.Bool().Draw(r, "named") {
					i.Name = i.ID[4:8]
				}
				at := minute(r, "updated")
				if i.State == daemon.ImageDeleted || i.State == daemon.ImageError {
					i.Cause = rapid.SampledFrom([]string{"", "why"}).Draw(r, "cause")
					i.DeletedAt = rapid.SampledFrom([]time.Time{time.Now(), time.Now().Add(-31 * 24 * time.Hour)}).Draw(r, "deleted")
				}
				err := b.db.Update(t.Context(), func(tx *store.Tx) error { return tx.PutImage(i, at) })
				if err != nil && !errors.Is(err, store.ErrTaken) {
					r.Fatal(err)
				}
			},
			"find": func(r *rapid.T) {
				read()
				c := rapid.SampledFrom([]daemon.Caller{alice, bob, admin}).Draw(r, "caller")
				q := daemon.ImageQuery{Ascending: rapid.Bool().Draw(r, "ascending"), Limit: rapid.IntRange(0, 4).Draw(r, "limit"),
					Sort: rapid.SampledFrom([]daemon.ImageSort{"", daemon.ByCreated, daemon.ByUpdated, daemon.ByName, daemon.ByID, daemon.BySize, daemon.ByState}).Draw(r, "sort")}
				if rapid.Bool().Draw(r, "some states") {
					q.States = rapid.SliceOfN(rapid.SampledFrom(states), 0, 3).Draw(r, "states")
				}
				filters := map[string]func(){
					"nothing":    func() { q.Nothing = true },
					"owner":      func() { q.Owner = rapid.SampledFrom(owners).Draw(r, "owner") },
					"visibility": func() { q.Visibility = rapid.SampledFrom(visibilities).Draw(r, "visibility") },
					"arrived":    func() { q.Arrived = ptr(rapid.Bool().Draw(r, "arrived")) },
					"protected":  func() { q.Protected = ptr(rapid.Bool().Draw(r, "protected")) },
					"since":      func() { q.ChangedSince = minute(r, "since") },
					"source":     func() { q.SourceCapsule = "c" },
					"metadata":   func() { q.Metadata = map[string]string{"a": "1"} },
					"ram":        func() { q.MinRAMMB = ptr(small.Draw(r, "ram")) },
					"disk":       func() { q.MinDiskGB = ptr(small.Draw(r, "disk")) },
					"min":        func() { q.SizeMin = ptr(int64(small.Draw(r, "min"))) },
					"max":        func() { q.SizeMax = ptr(int64(small.Draw(r, "max"))) },
					"own":        func() { q.Own = true },
					"name":       func() { q.Name = ptr("") },
				}
				for _, name := range slices.Sorted(maps.Keys(filters)) {
					if rapid.IntRange(0, 5).Draw(r, "with "+name) == 0 {
						filters[name]()
					}
				}
				if len(all) > 0 && rapid.Bool().Draw(r, "with marker") {
					q.Marker = rapid.SampledFrom(all).Draw(r, "marker").ID
				}
				want, more, wantCode := naive(all, c, q)
				page, err := b.FindImages(t.Context(), c, q)
				var got []string
				for _, i := range page.Images {
					got = append(got, i.ID)
				}
				if !slices.Equal(got, want) || page.More != more || code(err) != wantCode {
					r.Fatalf("%+v by %s:\ngot  %v, %t, %v\nwant %v, %t, %q", q, c.GUID, got, page.More, err, want, more, wantCode)
				}
			},
		})
	})
}

// TestCommunity: what is shared with the community is in the list of who asks for that, and in no other of others, and what
// failed is in none.
func TestCommunity(t *testing.T) {
	b := newBench(t, nil)
	for _, v := range []daemon.Visibility{daemon.Private, daemon.Public, daemon.Shared, daemon.Community} {
		b.put(string(v), daemon.ImageActive, func(i *store.Image) { i.Visibility = v })
	}
	bad := b.put("bad", daemon.ImagePending, func(i *store.Image) { i.Visibility = daemon.Community })
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error { return tx.BuryImage(bad, daemon.ImageError, "why", time.Now()) }); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		q                 daemon.ImageQuery
		alice, bob, admin string
	}{
		{daemon.ImageQuery{}, "community shared public private", "public", "community shared public private"},
		{daemon.ImageQuery{Visibility: daemon.Community}, "community", "community", "community"},
		{daemon.ImageQuery{Visibility: daemon.Community, Own: true}, "community", "", ""},
		{daemon.ImageQuery{Visibility: daemon.Community, States: []daemon.ImageState{daemon.ImageActive, daemon.ImageError}}, " community", "community", " community"},
		{daemon.ImageQuery{Visibility: daemon.Shared}, "shared", "", "shared"},
		{daemon.ImageQuery{Visibility: daemon.Private}, "private", "", "private"},
		{daemon.ImageQuery{Name: ptr("community")}, "community", "", "community"},
	} {
		for c, want := range map[*daemon.Caller]string{&alice: row.alice, &bob: row.bob, &admin: row.admin} {
			page, err := b.FindImages(t.Context(), *c, row.q)
			var names []string
			for _, i := range page.Images {
				names = append(names, i.Name)
			}
			if got := strings.Join(names, " "); err != nil || got != want {
				t.Errorf("%+v by %s: %q, %v, want %q", row.q, c.GUID, got, err, want)
			}
		}
	}
}

// TestPagesWhileTheyChange deletes each image, or takes it out of the list otherwise, once its page was read: each is listed
// once all the same, in the order of the first look.
func TestPagesWhileTheyChange(t *testing.T) {
	for name, end := range map[string]func(*bench, string){
		"requested": func(b *bench, id string) {
			if _, err := b.RequestImageDelete(t.Context(), alice, id); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(b *bench, id string) { b.succeed(b.DeleteImage(t.Context(), alice, id)) },
		"failed": func(b *bench, id string) {
			if err := b.db.Update(t.Context(), func(tx *store.Tx) error { return tx.BuryImage(id, daemon.ImageError, "why", time.Now()) }); err != nil {
				t.Fatal(err)
			}
		},
		"protected": func(b *bench, id string) {
			if _, err := b.SetImage(t.Context(), alice, id, daemon.ImageChange{Protected: ptr(true)}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, q := range []daemon.ImageQuery{{}, {Ascending: true}, {Sort: daemon.ByName}, {Sort: daemon.ByName, Ascending: true}, {Sort: daemon.BySize, Ascending: true}, {Sort: daemon.ByID}} {
			t.Run(fmt.Sprint(name, "/", q.Sort, q.Ascending), func(t *testing.T) {
				b := newBench(t, nil)
				for _, name := range []string{"d", "bb", "a", "eeee", "ccc", "ffffff", "ggggg"} { // their size is that of the name
					b.put(name, daemon.ImageActive, nil)
				}
				q := q
				q.Protected = ptr(false)
				ids := func(q daemon.ImageQuery) (ids []string, more bool) {
					page, err := b.FindImages(t.Context(), alice, q)
					if err != nil {
						t.Fatal(err)
					}
					for _, i := range page.Images {
						ids = append(ids, i.ID)
					}
					return ids, page.More
				}
				want, _ := ids(q)
				var got []string
				q.Limit = 2
				for more := true; more; {
					var page []string
					if page, more = ids(q); len(page) == 0 {
						break
					}
					for _, id := range page {
						end(b, id)
					}
					got, q.Marker = append(got, page...), page[len(page)-1]
				}
				if !slices.Equal(got, want) || len(want) != 7 {
					t.Errorf("%d listed, want %d: %v, want %v", len(got), len(want), got, want)
				}
			})
		}
	}
}

// TestMarkers are the images that a caller may know, and no other, also where nothing can match.
func TestMarkers(t *testing.T) {
	b := newBench(t, nil)
	own, private := b.put("own", daemon.ImageActive, func(i *store.Image) { i.Visibility = daemon.Shared }), b.put("private", daemon.ImageActive, nil)
	bobs := b.put("bobs", daemon.ImageActive, func(i *store.Image) { i.Visibility = daemon.Public })
	for _, q := range []daemon.ImageQuery{{}, {Sort: daemon.ByName}, {Nothing: true}, {Name: ptr("none")}} {
		for marker, want := range map[string]daemon.Code{own: ok, bobs: ok, private: daemon.Invalid, "x": daemon.Invalid} {
			q.Marker = marker
			if page, err := b.FindImages(t.Context(), bob, q); code(err) != want || q.Nothing && len(page.Images) > 0 {
				t.Errorf("%+v: %+v, %v, want %q", q, page, err, want)
			}
		}
	}
}

// BenchmarkFindImages is a page of a hundred of ten thousand, after a marker in the middle and through a filter, beside a
// handler that writes as many bytes.
func BenchmarkFindImages(b *testing.B) {
	t := newBench(b, nil)
	if err := t.db.Update(b.Context(), func(tx *store.Tx) error {
		if err := tx.PutUser("alice", ""); err != nil {
			return err
		}
		for n := range 10_000 {
			i := store.Image{ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n*7919%10_000), Name: fmt.Sprint(n), State: daemon.ImageActive, Visibility: daemon.Public,
				Owner: "alice", AskedBytes: -1, Metadata: map[string]string{"image_type": []string{"snapshot", "base"}[n%2]}, CreatedAt: time.Unix(int64(n), 0)}
			if err := tx.InsertImage(i); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	q := daemon.ImageQuery{Marker: fmt.Sprintf("%08x-0000-4000-8000-000000000000", 4999*7919%10_000), Limit: 100, Metadata: map[string]string{"image_type": "base"}}
	find := func() {
		page, err := t.FindImages(b.Context(), bob, q)
		if err != nil || len(page.Images) != 100 || !page.More {
			b.Fatal(len(page.Images), err)
		}
	}
	bytes := make([]byte, 60_000) // what such a page has in JSON
	for name, work := range map[string]func(){"catalog": find, "nothing": func() {}} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { work(); w.Write(bytes) }))
		b.Run("http/"+name, func(b *testing.B) {
			for b.Loop() {
				r, err := server.Client().Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				buf := make([]byte, 64<<10)
				for err == nil {
					_, err = r.Body.Read(buf)
				}
				r.Body.Close()
			}
		})
		server.Close()
	}
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			find()
		}
	})
	b.Run("find after a change", func(b *testing.B) {
		for b.Loop() {
			if _, err := t.SetImage(b.Context(), admin, q.Marker, daemon.ImageChange{}); err != nil {
				b.Fatal(err)
			}
			find()
		}
	})
	var sink daemon.Image
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			sink, _ = t.Image(b.Context(), bob, q.Marker)
		}
	})
	_ = sink
}

// What is made of an image of the catalog is made once, and again when the image has changed.
func TestDerived(t *testing.T) {
	b := newBench(t, nil)
	id := b.image()
	made := 0
	derive := func() any {
		page, err := b.FindImages(t.Context(), admin, daemon.ImageQuery{})
		if err != nil || len(page.Images) != 1 {
			t.Fatal(page, err)
		}
		return page.Images[0].Derived("name", func(i *daemon.Image) any { made++; return i.Name })
	}
	if first, again := derive(), derive(); first != again || made != 1 {
		t.Errorf("%v and %v, made %d times", first, again, made)
	}
	name := "another"
	if _, err := b.SetImage(t.Context(), admin, id, daemon.ImageChange{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if got := derive(); got != name || made != 2 {
		t.Errorf("%v after the change, made %d times", got, made)
	}
	var other daemon.Image
	if got := other.Derived("name", func(i *daemon.Image) any { return i.Name }); got != "" {
		t.Errorf("%v of an image of no catalog", got)
	}
}
