package daemon_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// TestShare makes an image of a capsule, and a capsule of that image.
func TestShare(t *testing.T) {
	clean := imagestore.Clean{Remove: []string{".ssh"}}
	b := newBench(t, func(o *daemon.Options) { o.Clean = clean })
	base, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "base", Path: sourcePath, Visibility: daemon.Public, LoginUser: "first", LoginPassword: "login"})
	b.succeed(op, err)
	capsule := b.create(alice, base.ID)
	release := b.machine.block("Flatten")
	v, op, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "mine", Description: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if v.State != daemon.ImagePending || v.Owner != "alice" || op.Target != capsule || op.Kind != "image-share" {
		t.Errorf("%+v, %+v", v, op)
	}
	if c := b.show(capsule); c.State != daemon.ImageSharePending {
		t.Errorf("meanwhile the capsule is %s", c.State)
	}
	if _, err := b.LaunchCapsule(t.Context(), alice, capsule); code(err) != daemon.Busy {
		t.Errorf("launched meanwhile: %v", err)
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, v.ID); code(err) != daemon.Conflict {
		t.Errorf("its deletion asked for meanwhile: %v", err)
	}
	if _, err := b.DeleteImage(t.Context(), alice, v.ID); code(err) != daemon.Busy {
		t.Errorf("deleted meanwhile: %v", err)
	}
	if _, err := b.FinishImage(t.Context(), alice, v.ID); code(err) != daemon.Busy {
		t.Errorf("finished meanwhile: %v", err)
	}
	if _, err := b.RequestImageDelete(t.Context(), root, base.ID); err != nil {
		t.Error(err)
	}
	waste, err := b.CollectImages(t.Context(), root, false)
	if err != nil || len(waste) != 1 || waste[0].Kept == "" {
		t.Errorf("the base is collected meanwhile: %+v, %v", waste, err)
	}
	close(release)
	b.succeed(op, nil)
	b.machine.well()
	i, err := b.Image(t.Context(), alice, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if i.State != daemon.ImageActive || i.SourceCapsule != capsule || i.Visibility != daemon.Private || i.LoginUser != "first" || i.LoginPassword != "login" || i.Description != "d" {
		t.Errorf("%+v", i)
	}
	if diff := cmp.Diff(map[string]string{"instance_uuid": capsule, "image_type": "snapshot"}, i.Metadata); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]imagestore.Clean{clean}, b.machine.cleaned); diff != "" {
		t.Error(diff)
	}
	if c := b.show(capsule); c.State != daemon.Shutdown || c.Cause != "" {
		t.Errorf("afterwards the capsule is %s: %q", c.State, c.Cause)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, capsule))
	again := b.create(alice, v.ID)
	if c := b.show(again); c.ImageUser != "first" {
		t.Errorf("%+v", c)
	}
	b.settled()
}

// TestShareFails: the capsule is as it was, the image says why, and nothing else is left.
func TestShareFails(t *testing.T) {
	b := newBench(t, nil)
	capsule := b.create(alice, b.image())
	b.machine.failing("Flatten")
	v, op, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "s"})
	op = b.wait(op, err)
	b.machine.well()
	if op.State != daemon.OperationFailed || op.Cause == "" {
		t.Errorf("%+v", op)
	}
	if i, err := b.Image(t.Context(), alice, v.ID); err != nil || i.State != daemon.ImageError || i.Cause == "" {
		t.Errorf("%+v, %v", i, err)
	}
	if c := b.show(capsule); c.State != daemon.Shutdown {
		t.Errorf("the capsule is %s", c.State)
	}
	_, op, err = b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "s"}) // its name is free
	b.succeed(op, err)
	b.settled()
}

// TestWhoShares: roles, states and quota, and that nothing has moved when it is refused.
func TestWhoShares(t *testing.T) {
	for name, c := range map[string]struct {
		as      daemon.Caller
		prepare func(*bench, string)
		n       daemon.NewShare
		want    daemon.Code
	}{
		"its owner":        {as: alice},
		"an admin":         {as: admin},
		"an admin, public": {as: admin, n: daemon.NewShare{Public: true}},
		"public":           {as: alice, n: daemon.NewShare{Public: true}, want: daemon.Forbidden},
		"a stranger":       {as: bob, want: daemon.NotFound},
		"nobody":           {want: daemon.Unauthorized},
		"an owner":         {as: bob, prepare: member(daemon.Owner)},
		"a controller":     {as: bob, prepare: member(daemon.Controller), want: daemon.Forbidden},
		"a sharee":         {as: bob, prepare: member(daemon.Sharee), want: daemon.Forbidden},
		"it runs":          {as: alice, prepare: func(b *bench, id string) { b.succeed(b.LaunchCapsule(b.life, alice, id)) }, want: daemon.Conflict},
		"a clean point": {as: alice, prepare: func(b *bench, id string) {
			b.records(func(tx *store.Tx) error { return tx.PutCleanPoint(id, uuid.NewString(), "") })
		}, want: daemon.Conflict},
		"no quota":        {as: alice, prepare: func(b *bench, _ string) { b.put("full", daemon.ImageActive, nil) }, want: daemon.OverQuota},
		"an admin's":      {as: admin, prepare: func(b *bench, _ string) { b.put("full", daemon.ImageActive, nil) }},
		"a name":          {as: admin, prepare: func(b *bench, _ string) { b.put("s", daemon.ImageActive, nil) }, want: daemon.Conflict},
		"no such capsule": {as: alice, n: daemon.NewShare{Capsule: uuid.NewString()}, want: daemon.NotFound},
		"no id":           {as: alice, n: daemon.NewShare{Capsule: "../x"}, want: daemon.Invalid},
		"a bad name":      {as: alice, n: daemon.NewShare{Name: "a\x00"}, want: daemon.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(o *daemon.Options) { o.Quota.Images = 1 })
			id := b.create(alice, b.image())
			if c.prepare != nil {
				c.prepare(b, id)
			}
			before := b.show(id)
			if c.n.Capsule == "" {
				c.n.Capsule = id
			}
			if c.n.Name == "" {
				c.n.Name = "s"
			}
			_, op, err := b.ShareCapsule(t.Context(), c.as, c.n)
			if code(err) != c.want {
				t.Fatalf("%q, want %q: %v", code(err), c.want, err)
			}
			if err == nil {
				b.succeed(op, nil)
			}
			if now := b.show(id); now.State != before.State {
				t.Errorf("the capsule is %s, and was %s", now.State, before.State)
			}
		})
	}
}

func (b *bench) records(change func(*store.Tx) error) {
	b.t.Helper()
	if err := b.db.Update(b.t.Context(), change); err != nil {
		b.t.Fatal(err)
	}
}

// member gives bob a role.
func member(role daemon.Role) func(*bench, string) {
	return func(b *bench, id string) {
		if err := b.exec("INSERT INTO users (guid) VALUES ('bob')"); err != nil {
			b.t.Fatal(err)
		}
		if err := b.exec("INSERT INTO members (capsule, guid, role, tou) VALUES (?, 'bob', ?, 1)", id, role); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestWhatAnImageNeeds: a capsule has the memory that its image asks for, or is not made.
func TestWhatAnImageNeeds(t *testing.T) {
	b := newBench(t, nil)
	id := b.put("i", daemon.ImageActive, func(i *store.Image) { i.MinRAMMB = 512 })
	n := order(id)
	for memory, want := range map[int]daemon.Code{511: daemon.Invalid, 512: ok} {
		n.MemoryMB = memory
		_, op, err := b.CreateCapsule(t.Context(), alice, n)
		if code(err) != want {
			t.Errorf("%d MB: %v", memory, err)
		}
		if err == nil {
			b.succeed(op, nil)
		}
	}
	b.settled()
}

// TestClassesOfTheStore: what the store of images says, in the codes of callers.
func TestClassesOfTheStore(t *testing.T) {
	for err, want := range map[error]daemon.Code{
		imagestore.ErrConflict:                                        daemon.Conflict,
		&imagestore.OffsetError{Received: 1}:                          daemon.Conflict,
		imagestore.ErrInUse:                                           daemon.Busy,
		errors.Join(imagestore.ErrDigest, imagestore.ErrInvalid):      daemon.Invalid,
		&imagestore.SourceError{Fault: "it is away"}:                  daemon.Unavailable,
		errors.Join(imagestore.ErrInvalid, imagestore.ErrUnsupported): daemon.Unsupported,
		imagestore.ErrCorrupt:                                         daemon.Internal,
	} {
		if got := daemon.Classify(err); got.Code != want || got.Message == "" {
			t.Errorf("%v: %q, %q", err, got.Code, got.Message)
		}
	}
}
