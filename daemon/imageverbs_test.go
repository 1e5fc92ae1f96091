package daemon_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
	"github.com/capsuled/capsuled/daemon/store"
)

var (
	admin = daemon.Caller{GUID: "carol", Roles: []string{daemon.RoleAdmin}, From: "127.0.0.1"}
	peer  = daemon.Caller{GUID: "host2", Roles: []string{daemon.RolePeer}, From: "127.0.0.1"}
)

// put writes an image of alice's into the records in a state, with bytes if it has them there.
func (b *bench) put(name string, state daemon.ImageState, change func(*store.Image)) string {
	b.t.Helper()
	i := store.Image{
		ID: uuid.NewString(), Name: name, State: daemon.ImagePending, Visibility: daemon.Private, Owner: "alice",
		Charged: true, AskedBytes: -1, CreatedAt: time.Now().Truncate(time.Microsecond),
	}
	if err := b.db.Update(b.t.Context(), func(tx *store.Tx) error {
		if err := errors.Join(tx.PutUser("alice", ""), tx.InsertImage(i)); err != nil {
			return err
		}
		i, err := tx.Image(i.ID)
		if err != nil {
			return err
		}
		if state == daemon.ImageError || state == daemon.ImageDeleted {
			return tx.BuryImage(i.ID, state, "why", time.Now())
		}
		i.State = state
		if state != daemon.ImagePending {
			got := of(name)
			i.Digest, i.Format, i.FileBytes, i.VirtualBytes, i.Arrived = string(got.Digest), string(got.Format), got.FileBytes, got.VirtualBytes, true
			b.machine.mu.Lock()
			b.machine.images[got.Digest] = got
			b.machine.mu.Unlock()
		}
		if change != nil {
			change(&i)
		}
		return tx.PutImage(i, time.Now())
	}); err != nil {
		b.t.Fatal(err)
	}
	return i.ID
}

// imageVerbs are the verbs that take the id of an image.
var imageVerbs = map[string]func(*bench, daemon.Caller, string) error{
	"show": func(b *bench, c daemon.Caller, id string) error { _, err := b.Image(b.life, c, id); return err },
	"open": func(b *bench, c daemon.Caller, id string) error {
		f, _, err := b.OpenImage(b.life, c, id)
		if err == nil {
			f.Close()
		}
		return err
	},
	"progress": func(b *bench, c daemon.Caller, id string) error { _, err := b.ImageProgress(b.life, c, id); return err },
	"append": func(b *bench, c daemon.Caller, id string) error {
		_, err := b.AppendImage(b.life, c, id, 0, strings.NewReader("x"))
		return err
	},
	"set": func(b *bench, c daemon.Caller, id string) error {
		_, err := b.SetImage(b.life, c, id, daemon.ImageChange{SetMetadata: map[string]string{"k": "v"}})
		return err
	},
	"request": func(b *bench, c daemon.Caller, id string) error {
		_, err := b.RequestImageDelete(b.life, c, id)
		return err
	},
	"request active": func(b *bench, c daemon.Caller, id string) error {
		_, err := b.RequestActiveImageDelete(b.life, c, id)
		return err
	},
	"delete":   func(b *bench, c daemon.Caller, id string) error { _, err := b.DeleteImage(b.life, c, id); return err },
	"purge":    func(b *bench, c daemon.Caller, id string) error { _, err := b.PurgeImage(b.life, c, id); return err },
	"verify":   func(b *bench, c daemon.Caller, id string) error { _, err := b.VerifyImage(b.life, c, id); return err },
	"activate": func(b *bench, c daemon.Caller, id string) error { _, err := b.ActivateImage(b.life, c, id); return err },
	"create": func(b *bench, c daemon.Caller, id string) error {
		_, _, err := b.CreateCapsule(b.life, c, order(id))
		return err
	},
}

const (
	ok     = daemon.Code("")
	known  = daemon.Forbidden
	hidden = daemon.NotFound
)

// TestImageStates asks for every verb in every state, as the image's owner.
func TestImageStates(t *testing.T) {
	states := map[string]func(*bench) string{
		"queued": func(b *bench) string { return b.put("i", daemon.ImagePending, nil) },
		"promised": func(b *bench) string {
			return b.put("i", daemon.ImagePending, func(i *store.Image) { i.Protected = true })
		},
		"waiting": func(b *bench) string {
			return b.put("i", daemon.ImageActive, func(i *store.Image) { i.State = daemon.ImagePending })
		},
		"active": func(b *bench) string { return b.put("i", daemon.ImageActive, nil) },
		"guarded": func(b *bench) string {
			return b.put("i", daemon.ImageActive, func(i *store.Image) { i.Protected = true })
		},
		"going":  func(b *bench) string { return b.put("i", daemon.ImageDeletePending, nil) },
		"gone":   func(b *bench) string { return b.put("i", daemon.ImageDeleted, nil) },
		"failed": func(b *bench) string { return b.put("i", daemon.ImageError, nil) },
	}
	columns := []string{"queued", "promised", "waiting", "active", "guarded", "going", "gone", "failed"}
	const conflict, left, refused, invalid = daemon.Conflict, daemon.Gone, daemon.Forbidden, daemon.Conflict
	for verb, want := range map[string][]daemon.Code{
		"show":           {ok, ok, ok, ok, ok, ok, ok, ok},
		"open":           {conflict, conflict, conflict, ok, ok, left, left, left},
		"progress":       {ok, ok, ok, ok, ok, left, left, left},
		"append":         {ok, ok, conflict, conflict, conflict, left, left, left},
		"set":            {conflict, conflict, conflict, ok, ok, left, left, left},
		"request":        {ok, ok, ok, ok, refused, left, left, ok},
		"request active": {conflict, conflict, conflict, ok, refused, left, left, ok},
		"delete":         {ok, ok, ok, ok, refused, left, left, ok},
		"purge":          {conflict, conflict, conflict, conflict, conflict, ok, left, left},
		"verify":         {conflict, conflict, conflict, ok, ok, left, left, left},
		"activate":       {refused, refused, refused, refused, refused, refused, refused, refused},
		"create":         {invalid, invalid, invalid, ok, ok, invalid, hidden, hidden},
	} {
		for n, state := range columns {
			t.Run(verb+"/"+state, func(t *testing.T) {
				b := newBench(t, nil)
				id := states[state](b)
				if err := imageVerbs[verb](b, alice, id); code(err) != want[n] {
					t.Errorf("%q, want %q: %v", code(err), want[n], err)
				}
				b.settled()
			})
		}
	}
}

// TestChanges holds the daemon against what those that stand in for it are held against.
func TestChanges(t *testing.T) {
	daemontest.RunChanges(t, func(t *testing.T, state daemon.ImageState, protected bool) (daemontest.Changes, daemon.Caller, string) {
		b := newBench(t, nil)
		return b, alice, b.put("i", state, func(i *store.Image) { i.Protected = protected })
	})
}

// TestImageRoles asks for every verb as everybody, of images of every visibility.
func TestImageRoles(t *testing.T) {
	nobody := daemon.Caller{From: "127.0.0.1"}
	local := root
	for verb, want := range map[string]struct{ owner, admin, readable, private daemon.Code }{
		"show":           {ok, ok, ok, hidden},
		"open":           {ok, ok, ok, hidden},
		"create":         {ok, ok, ok, hidden},
		"progress":       {ok, ok, known, hidden},
		"append":         {daemon.Conflict, daemon.Conflict, known, hidden},
		"set":            {ok, ok, known, hidden},
		"request":        {ok, ok, known, hidden},
		"request active": {ok, ok, known, hidden},
		"delete":         {ok, ok, known, hidden},
		"purge":          {daemon.Conflict, daemon.Conflict, known, hidden},
		"verify":         {ok, ok, known, hidden},
		"activate":       {known, daemon.Conflict, known, hidden},
	} {
		for _, visibility := range []daemon.Visibility{daemon.Private, daemon.Public, daemon.Shared, daemon.Community} {
			other := want.readable
			if visibility == daemon.Private {
				other = want.private
			}
			for _, who := range []struct {
				name string
				c    daemon.Caller
				want daemon.Code
			}{{"owner", alice, want.owner}, {"admin", admin, want.admin}, {"local", local, want.admin}, {"other", bob, other}, {"peer", peer, other}, {"nobody", nobody, daemon.Unauthorized}} {
				if who.name != "other" && (visibility == daemon.Shared || visibility == daemon.Community) {
					continue // as with private and public ones
				}
				t.Run(verb+"/"+string(visibility)+"/"+who.name, func(t *testing.T) {
					b := newBench(t, nil)
					id := b.put("i", daemon.ImageActive, func(i *store.Image) { i.Visibility = visibility })
					if err := imageVerbs[verb](b, who.c, id); code(err) != who.want {
						t.Errorf("%q, want %q: %v", code(err), who.want, err)
					}
				})
			}
		}
	}
}

// TestWhyIsItsOwners: why an image never came is nobody else's to know, whatever its visibility.
func TestWhyIsItsOwners(t *testing.T) {
	b := newBench(t, nil)
	id := b.put("i", daemon.ImagePending, func(i *store.Image) { i.Visibility = daemon.Public })
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error { return tx.BuryImage(id, daemon.ImageError, "why", time.Now()) }); err != nil {
		t.Fatal(err)
	}
	if i, err := b.Image(t.Context(), alice, id); err != nil || i.Cause != "why" || i.Name != "" || i.DeletedAt.IsZero() {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := b.Image(t.Context(), bob, id); code(err) != daemon.NotFound {
		t.Error(err)
	}
	everything := daemon.ImageQuery{ChangedSince: time.Unix(1, 0)}
	for who, n := range map[*daemon.Caller]int{&alice: 1, &bob: 0, &admin: 1} {
		if page, err := b.FindImages(t.Context(), *who, everything); err != nil || len(page.Images) != n {
			t.Errorf("%s: %+v, %v", who.GUID, page, err)
		}
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, id); err != nil {
		t.Error(err)
	}
	// That its owner deletes it makes it nobody else's.
	if i, err := b.Image(t.Context(), alice, id); err != nil || i.State != daemon.ImageDeleted || i.Cause != "why" {
		t.Errorf("%+v, %v", i, err)
	}
	if i, err := b.Image(t.Context(), bob, id); code(err) != daemon.NotFound {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := b.RequestImageDelete(t.Context(), bob, id); code(err) != daemon.NotFound {
		t.Error(err)
	}
	for who, n := range map[*daemon.Caller]int{&alice: 1, &bob: 0, &admin: 1} {
		if page, err := b.FindImages(t.Context(), *who, everything); err != nil || len(page.Images) != n {
			t.Errorf("%s, once it is deleted: %+v, %v", who.GUID, page, err)
		}
	}
	// What came, and was deleted, everybody knows of who knew it.
	gone := b.put("j", daemon.ImageActive, func(i *store.Image) { i.Visibility = daemon.Public })
	b.succeed(b.DeleteImage(t.Context(), alice, gone))
	if i, err := b.Image(t.Context(), bob, gone); err != nil || i.State != daemon.ImageDeleted {
		t.Errorf("%+v, %v", i, err)
	}
}

// TestFailedImageIsDeleted, by the verb that begins an operation: also when the daemon ends before it does.
func TestFailedImageIsDeleted(t *testing.T) {
	for name, meanwhile := range map[string]func(*bench, string){
		"at once": func(*bench, string) {},
		"after a restart": func(b *bench, id string) {
			if err := b.exec("UPDATE operations SET ended = NULL, state = 'running' WHERE target = ?", id); err != nil {
				b.t.Fatal(err)
			}
			b.kill()
			b.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.put("i", daemon.ImageError, nil)
			op, err := b.DeleteImage(t.Context(), alice, id)
			b.succeed(op, err)
			meanwhile(b, id)
			b.succeed(op, nil)
			if i, err := b.Image(t.Context(), alice, id); err != nil || i.State != daemon.ImageDeleted || i.Cause != "why" || i.DeletedAt.IsZero() {
				t.Errorf("%+v, %v", i, err)
			}
			if _, err := b.DeleteImage(t.Context(), alice, id); code(err) != daemon.Gone {
				t.Error(err)
			}
			b.settled()
		})
	}
}

// TestNewImages is what may be added by whom.
func TestNewImages(t *testing.T) {
	many := map[string]string{}
	for n := range daemon.MaxMetadataItems + 1 {
		many[strings.Repeat("k", n+1)] = ""
	}
	const id = "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10"
	good := "sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		n           daemon.NewImage
		alice, root daemon.Code
	}{
		"bytes":             {daemon.NewImage{Name: "n", Bytes: 5, Digest: good, Format: "raw"}, ok, ok},
		"bytes, how many?":  {daemon.NewImage{Bytes: -1}, ok, ok},
		"a URL":             {daemon.NewImage{URL: sourceURL}, ok, ok},
		"a file":            {daemon.NewImage{Path: sourcePath}, daemon.Forbidden, ok},
		"public":            {daemon.NewImage{Visibility: daemon.Public}, daemon.Forbidden, ok},
		"shared":            {daemon.NewImage{Visibility: daemon.Shared}, ok, ok},
		"protected":         {daemon.NewImage{Protected: true}, ok, ok},
		"an id":             {daemon.NewImage{ID: id}, daemon.Forbidden, ok},
		"a bad id":          {daemon.NewImage{ID: "x"}, daemon.Forbidden, daemon.Invalid},
		"a file and a URL":  {daemon.NewImage{Path: sourcePath, URL: sourceURL}, daemon.Forbidden, daemon.Invalid},
		"a relative file":   {daemon.NewImage{Path: "x"}, daemon.Forbidden, daemon.Invalid},
		"visibility":        {daemon.NewImage{Visibility: "secret"}, daemon.Invalid, daemon.Invalid},
		"format":            {daemon.NewImage{Format: "vmdk"}, daemon.Invalid, daemon.Invalid},
		"digest":            {daemon.NewImage{Digest: "sha256:00"}, daemon.Invalid, daemon.Invalid},
		"less than nothing": {daemon.NewImage{Bytes: -2}, daemon.Invalid, daemon.Invalid},
		"min disk":          {daemon.NewImage{MinDiskGB: -1}, daemon.Invalid, daemon.Invalid},
		"min ram":           {daemon.NewImage{MinRAMMB: daemon.MaxImageMinRAM + 1}, daemon.Invalid, daemon.Invalid},
		"long name":         {daemon.NewImage{Name: strings.Repeat("é", daemon.MaxImageName+1)}, daemon.Invalid, daemon.Invalid},
		"just so":           {daemon.NewImage{Name: strings.Repeat("é", daemon.MaxImageName)}, ok, ok},
		"a name like an id": {daemon.NewImage{Name: id}, daemon.Invalid, daemon.Invalid},
		"a name that is":    {daemon.NewImage{Name: "taken"}, daemon.Conflict, daemon.Conflict},
		"too much metadata": {daemon.NewImage{Metadata: many}, daemon.OverQuota, daemon.OverQuota},
		"longest metadata":  {daemon.NewImage{Metadata: bytesOfItems(daemon.MaxMetadataBytes)}, ok, ok},
		"longer metadata":   {daemon.NewImage{Metadata: bytesOfItems(daemon.MaxMetadataBytes + 1)}, daemon.OverQuota, daemon.OverQuota},
		"no key":            {daemon.NewImage{Metadata: map[string]string{"": "v"}}, daemon.Invalid, daemon.Invalid},
		"NUL":               {daemon.NewImage{Metadata: map[string]string{"k": "a\x00"}}, daemon.Invalid, daemon.Invalid},
		"no text":           {daemon.NewImage{Metadata: map[string]string{"k": "\xff"}}, daemon.Invalid, daemon.Invalid},
		"TAB, LF, CR":       {daemon.NewImage{Metadata: map[string]string{"k\t": "\r\n"}}, ok, ok},
		"longest value":     {daemon.NewImage{Metadata: map[string]string{"k": strings.Repeat("v", daemon.MaxMetadataValue)}}, ok, ok},
		"longer value":      {daemon.NewImage{Metadata: map[string]string{"k": strings.Repeat("v", daemon.MaxMetadataValue+1)}}, daemon.Invalid, daemon.Invalid},
		"longest key":       {daemon.NewImage{Metadata: map[string]string{strings.Repeat("é", 255): ""}}, ok, ok},
		"longer key":        {daemon.NewImage{Metadata: map[string]string{strings.Repeat("é", 256): ""}}, daemon.Invalid, daemon.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			for who, want := range map[*daemon.Caller]daemon.Code{&alice: c.alice, &root: c.root, {GUID: ""}: daemon.Unauthorized} {
				b := newBench(t, nil)
				b.put("taken", daemon.ImagePending, func(i *store.Image) { i.Owner = "alice" })
				b.machine.urls[sourceURL] = "u"
				i, op, err := b.AddImage(t.Context(), *who, c.n)
				if code(err) != want {
					t.Errorf("%q: %q, want %q: %v", who.GUID, code(err), want, err)
				}
				if err == nil && (i.State != daemon.ImagePending || (op.ID == "") != (c.n.Path+c.n.URL == "")) {
					t.Errorf("%+v, %+v", i, op)
				}
				b.settled()
			}
		})
	}
	b := newBench(t, func(o *daemon.Options) { o.FetchRules.Allow = nil })
	if _, _, err := b.AddImage(t.Context(), root, daemon.NewImage{URL: sourceURL}); code(err) != daemon.Invalid || !strings.Contains(err.Error(), "no host is allowed") {
		t.Errorf("from nowhere: %v", err)
	}
	b2 := newBench(t, nil)
	if i, _, err := b2.AddImage(t.Context(), root, daemon.NewImage{ID: strings.ToUpper(id)}); err != nil || i.ID != id {
		t.Errorf("%+v, %v", i, err)
	}
	if _, _, err := b2.AddImage(t.Context(), admin, daemon.NewImage{ID: id}); code(err) != daemon.Conflict {
		t.Errorf("an id of another image: %v", err)
	}
}

// TestImageQuota: what is awaited and what is there counts; administrators are not charged; parallel requests cannot
// overspend.
func TestImageQuota(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Quota.Images = 3 })
	codes := make(chan daemon.Code, 12)
	for range cap(codes) {
		go func() {
			_, _, err := b.AddImage(context.Background(), alice, daemon.NewImage{})
			codes <- code(err)
		}()
	}
	n := map[daemon.Code]int{}
	for range cap(codes) {
		n[<-codes]++
	}
	if n[ok] != 3 || n[daemon.OverQuota] != 9 {
		t.Fatalf("%v", n)
	}
	page, err := b.FindImages(t.Context(), alice, daemon.ImageQuery{})
	if err != nil || len(page.Images) != 3 {
		t.Fatalf("%+v, %v", page, err)
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, page.Images[0].ID); err != nil {
		t.Fatal(err)
	}
	if op, err := b.send(t.Context(), alice, "", "bad"); b.wait(op, err).State != daemon.OperationFailed {
		t.Error("what is bad was taken in")
	}
	b.succeed(b.send(t.Context(), alice, "", "good"))
	if _, _, err := b.AddImage(t.Context(), alice, daemon.NewImage{}); code(err) != daemon.OverQuota {
		t.Error(err)
	}
	for range 5 {
		if _, _, err := b.AddImage(t.Context(), admin, daemon.NewImage{}); err != nil {
			t.Error(err)
		}
	}
	b.settled()
}
