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

// TestSetImage is every change, and what is left when it is refused.
func TestSetImage(t *testing.T) {
	full := map[string]string{}
	for n := range daemon.MaxMetadataItems {
		full[fmt.Sprint(n)] = ""
	}
	have := map[string]string{"a": "1", "b": "2"}
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

// TestPeers: a shared image is ACTIVE once every other host has it, or an administrator says so.
func TestPeers(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Peers = []string{"host2", "host3"} })
	waiting := func(name string) string {
		return b.put(name, daemon.ImageActive, func(i *store.Image) { i.State = daemon.ImagePending })
	}
	id := waiting("i")
	third := daemon.Caller{GUID: "host3", Roles: []string{daemon.RolePeer}}
	for n, step := range []struct {
		c     daemon.Caller
		code  daemon.Code
		state daemon.ImageState
	}{
		{daemon.Caller{GUID: "host4", Roles: []string{daemon.RolePeer}}, daemon.NotFound, daemon.ImagePending},
		{daemon.Caller{GUID: "host2"}, daemon.NotFound, daemon.ImagePending}, // the name alone is nothing
		{alice, daemon.Forbidden, daemon.ImagePending},
		{peer, ok, daemon.ImagePending},
		{peer, ok, daemon.ImagePending},
		{third, ok, daemon.ImageActive},
		{third, daemon.Conflict, daemon.ImageActive},
	} {
		_, err := b.ActivateImage(t.Context(), step.c, id)
		i, _ := b.Image(t.Context(), alice, id)
		if code(err) != step.code || i.State != step.state {
			t.Errorf("step %d: %v, %s", n, err, i.State)
		}
	}
	other := waiting("other")
	if i, err := b.ActivateImage(t.Context(), admin, other); err != nil || i.State != daemon.ImageActive {
		t.Errorf("%+v, %v", i, err)
	}
	empty := b.put("empty", daemon.ImagePending, nil)
	if _, err := b.ActivateImage(t.Context(), admin, empty); code(err) != daemon.Conflict {
		t.Errorf("nothing is there: %v", err)
	}
	// A capsule's image waits for them by itself.
	capsule := b.create(alice, id)
	v, op, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "s"})
	b.succeed(op, err)
	if i, err := b.Image(t.Context(), alice, v.ID); err != nil || i.State != daemon.ImagePending || i.Digest == "" || !i.Arrived {
		t.Errorf("%+v, %v", i, err)
	}
	if b.show(capsule).State != daemon.Shutdown {
		t.Error("the capsule waits too")
	}
	for name, want := range map[string]struct {
		c    daemon.Caller
		code daemon.Code
	}{"a peer": {peer, ok}, "its owner": {alice, daemon.Conflict}, "a stranger": {bob, daemon.NotFound}, "another host": {daemon.Caller{GUID: "host4", Roles: []string{daemon.RolePeer}}, daemon.NotFound}} {
		f, _, err := b.OpenImage(t.Context(), want.c, v.ID)
		if f != nil {
			f.Close()
		}
		if code(err) != want.code {
			t.Errorf("%s reads an image that waits for the peers: %v", name, err)
		}
	}
	for _, p := range []daemon.Caller{third, peer} {
		if _, err := b.ActivateImage(t.Context(), p, v.ID); err != nil {
			t.Error(err)
		}
	}
	b.create(alice, v.ID)
	b.settled()
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
