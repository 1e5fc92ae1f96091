package daemon_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// TestExactQuota: what a quota allows is allowed to the last megabyte, and no more.
func TestExactQuota(t *testing.T) {
	for name, quota := range map[string]daemon.Quota{
		"vcpus":  {CPUs: 2, MemoryMB: 4096, DiskGB: 100},
		"memory": {CPUs: 4, MemoryMB: 512, DiskGB: 100},
		"disk":   {CPUs: 4, MemoryMB: 4096, DiskGB: 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(o *daemon.Options) { o.Quota = quota })
			image := b.image()
			b.create(alice, image)
			id := b.create(alice, image)
			if _, _, err := b.CreateCapsule(t.Context(), alice, order(image)); code(err) != daemon.OverQuota {
				t.Errorf("a third capsule: %v", err)
			}
			b.create(bob, image) // his own
			b.succeed(b.DeleteCapsule(t.Context(), alice, id))
			b.create(alice, image)
			b.settled()
		})
	}
}

// TestFailedCreationGivesBack: ports, address and quota are free again while the record of the failure is still there.
func TestFailedCreationGivesBack(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.PortHigh = o.PortLow + 1; o.Quota.CPUs = 1 })
	image := b.image()
	b.machine.failing("Define")
	_, op, err := b.CreateCapsule(t.Context(), alice, order(image))
	if op = b.wait(op, err); op.State != daemon.OperationFailed || op.Step != "define" {
		t.Fatalf("%+v", op)
	}
	b.machine.well()
	b.create(alice, image)
	if all := b.states(); !slices.Contains(all, daemon.Failed) || len(all) != 2 {
		t.Errorf("the capsules are %v", all)
	}
	b.settled()
}

// TestUndo fails the start after its effect: the same operation destroys what runs, then takes the fence down. Nothing is
// left for the reconciler to find.
func TestUndo(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.machine.mu.Lock()
	first := len(b.machine.calls)
	b.machine.fault = func(_ int, name string) fault {
		if name == "Start" {
			return errAfter
		}
		return none
	}
	b.machine.mu.Unlock()
	op := b.wait(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.mu.Lock()
	calls := slices.Clone(b.machine.calls[first:])
	b.machine.mu.Unlock()
	at := slices.Index(calls, "Start")
	if at < 0 || len(calls) < at+4 || calls[at+1] != "Destroy" || calls[at+2] != "OpenBy" || calls[at+3] != "Drop" {
		t.Errorf("calls: %v", calls)
	}
	steps := map[string]string{}
	for _, s := range op.Steps {
		steps[s.Name] = s.State
	}
	if steps["start"] != "failed" || steps["fence"] != "undone" || steps["admit"] != "done" {
		t.Errorf("steps: %v", steps)
	}
	b.settled()
}

// TestOthersImages: a private image is its owner's and the administrators', in every verb that takes one.
func TestOthersImages(t *testing.T) {
	b := newBench(t, nil)
	secret, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "secret", Path: sourcePath})
	b.succeed(op, err)
	if _, err := b.Image(t.Context(), alice, secret.ID); code(err) != daemon.NotFound {
		t.Errorf("shown: %v", err)
	}
	if all, err := b.Images(t.Context(), alice); err != nil || len(all) != 0 {
		t.Errorf("listed: %v, %v", all, err)
	}
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(secret.ID)); code(err) != daemon.NotFound {
		t.Errorf("used: %v", err)
	}
	if _, err := b.DeleteImage(t.Context(), alice, secret.ID); code(err) != daemon.NotFound {
		t.Errorf("deleted: %v", err)
	}
	public := func() string {
		i, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "public", Path: sourcePath, Visibility: daemon.Public})
		b.succeed(op, err)
		return i.ID
	}()
	if _, err := b.DeleteImage(t.Context(), alice, public); code(err) != daemon.Forbidden {
		t.Errorf("a public image deleted by a stranger: %v", err)
	}
	if _, _, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "public", Path: sourcePath}); code(err) != daemon.Conflict {
		t.Errorf("a second image of that name: %v", err)
	}
	// Both have the same bytes: they stay until the second goes.
	b.succeed(b.DeleteImage(t.Context(), root, secret.ID))
	b.create(alice, public)
	b.succeed(b.DeleteImage(t.Context(), root, public))
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(public)); code(err) != daemon.NotFound {
		t.Errorf("a deleted image used: %v", err)
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if n := len(b.machine.images); n != 0 {
		t.Errorf("%d files of deleted images", n)
	}
}

// TestImageInUse: an image is neither used before it is there, nor deleted while a capsule is being made from it.
func TestImageInUse(t *testing.T) {
	b := newBench(t, nil)
	release := b.machine.block("Import")
	i, adding, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "guest", Path: sourcePath, Visibility: daemon.Public})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(i.ID)); code(err) != daemon.Conflict {
		t.Errorf("an image that is on its way was used: %v", err)
	}
	if _, err := b.DeleteImage(t.Context(), root, i.ID); code(err) != daemon.Busy {
		t.Errorf("an image that is on its way was deleted: %v", err)
	}
	close(release)
	b.succeed(adding, nil)
	release = b.machine.block("Clone")
	_, making, err := b.CreateCapsule(t.Context(), alice, order(i.ID))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.DeleteImage(t.Context(), root, i.ID); code(err) != daemon.Busy {
		t.Errorf("an image was deleted under a clone: %v", err)
	}
	close(release)
	b.succeed(making, nil)
	b.succeed(b.DeleteImage(t.Context(), root, i.ID))
}

// TestOthersOperations: who has no part in a capsule learns nothing of its operations, and only administrators read the
// leaves' own words.
func TestOthersOperations(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.machine.failing("Define")
	op := b.wait(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.well()
	if !strings.Contains(op.Cause, "injected") {
		t.Errorf("root reads %q", op.Cause)
	}
	own, err := b.Operation(t.Context(), alice, op.ID)
	if err != nil || own.Cause == "" || strings.Contains(own.Cause, "injected") {
		t.Errorf("the owner reads %q, %v", own.Cause, err)
	}
	if _, err := b.Operation(t.Context(), bob, op.ID); code(err) != daemon.NotFound {
		t.Errorf("a stranger reads it: %v", err)
	}
	if _, err := b.WaitOperation(t.Context(), bob, op.ID); code(err) != daemon.NotFound {
		t.Errorf("a stranger waits for it: %v", err)
	}
	for c, n := range map[*daemon.Caller]int{&root: 3, &alice: 2, &bob: 0} {
		if all, err := b.Operations(t.Context(), *c, daemon.OperationFilter{}); err != nil || len(all) != n {
			t.Errorf("%s lists %d operations, %v", c.GUID, len(all), err)
		}
	}
}

// TestNobody: without an identity nothing is answered, not even with an empty list.
func TestNobody(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	id := b.create(alice, image)
	for name, ask := range map[string]func(context.Context, daemon.Caller) error{
		"show one": func(ctx context.Context, c daemon.Caller) error { _, err := b.ShowCapsules(ctx, c, id); return err },
		"show":     func(ctx context.Context, c daemon.Caller) error { _, err := b.ShowCapsules(ctx, c, ""); return err },
		"list":     func(ctx context.Context, c daemon.Caller) error { _, err := b.ListCapsules(ctx, c); return err },
		"images":   func(ctx context.Context, c daemon.Caller) error { _, err := b.Images(ctx, c); return err },
		"operations": func(ctx context.Context, c daemon.Caller) error {
			_, err := b.Operations(ctx, c, daemon.OperationFilter{})
			return err
		},
		"create": func(ctx context.Context, c daemon.Caller) error {
			_, _, err := b.CreateCapsule(ctx, c, order(image))
			return err
		},
		"image add": func(ctx context.Context, c daemon.Caller) error {
			_, _, err := b.AddImage(ctx, c, daemon.NewImage{Name: "x", Path: sourcePath})
			return err
		},
		"image delete": func(ctx context.Context, c daemon.Caller) error { _, err := b.DeleteImage(ctx, c, image); return err },
	} {
		for _, c := range []daemon.Caller{{}, {Local: true}, {Roles: []string{daemon.RoleAdmin}}} {
			if err := ask(t.Context(), c); code(err) != daemon.Unauthorized {
				t.Errorf("%s by %+v: %v", name, c, err)
			}
		}
	}
}

// TestOnItsWayOut: to its owner a capsule that is being deleted is gone at once, in every verb.
func TestOnItsWayOut(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	release := b.machine.block("Erase")
	op, err := b.DeleteCapsule(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]verb{"launch": b.LaunchCapsule, "stop": b.StopCapsule, "delete": b.DeleteCapsule} {
		if _, err := ask(t.Context(), alice, id); code(err) != daemon.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := b.ListCapsules(t.Context(), alice); err != nil || len(all) != 0 {
		t.Errorf("listed: %v, %v", all, err)
	}
	close(release)
	b.succeed(op, nil)
	b.settled()
}
