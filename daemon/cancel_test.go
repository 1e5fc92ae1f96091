package daemon_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/imagestore"
)

// under begins an operation whose call waits, and returns when it is there.
func (b *bench) under(call string, begin func() (daemon.Operation, error)) daemon.Operation {
	b.t.Helper()
	b.machine.mu.Lock()
	b.machine.patient[call] = true
	b.machine.mu.Unlock()
	op, err := begin()
	if err != nil {
		b.t.Fatal(err)
	}
	return op
}

func (b *bench) impatient() {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	clear(b.machine.patient)
}

// TestCancel interrupts each operation that can be, by each who may: it fails with who did it, leaves nothing, and stays
// failed.
func TestCancel(t *testing.T) {
	for kind, c := range map[string]struct {
		call  string
		begin func(*bench) func() (daemon.Operation, error)
	}{
		"image-fetch":  {"Fetch", deeds["image-fetch"]},
		"image-finish": {"FinishUpload", deeds["image-finish"]},
		"image-share":  {"Flatten", deeds["image-share"]},
		"image-verify": {"VerifyImage", deeds["image-verify"]},
		"image-add":    {"Import", deeds["image-add"]},
	} {
		for name, who := range map[string]daemon.Caller{"owner": alice, "admin": admin} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				b := newBench(t, nil)
				begin := c.begin(b)
				op := b.under(c.call, begin)
				if (kind == "image-add" || kind == "image-verify") && name == "owner" {
					who = root // it is the owner of these
				}
				if _, err := b.CancelOperation(t.Context(), bob, op.ID); code(err) != daemon.NotFound {
					t.Errorf("by a stranger: %v", err)
				}
				got, err := b.CancelOperation(t.Context(), who, op.ID)
				if err != nil || got.Code != daemon.Conflict || got.Cause != "cancelled by "+who.GUID {
					t.Fatalf("%+v, %v", got, err)
				}
				op = b.wait(op, nil)
				if op.State != daemon.OperationFailed || op.Code != daemon.Conflict || op.Cause != "cancelled by "+who.GUID {
					t.Errorf("%s, %q: %q", op.State, op.Code, op.Cause)
				}
				if _, err := b.CancelOperation(t.Context(), who, op.ID); code(err) != daemon.Conflict {
					t.Errorf("cancelled twice: %v", err)
				}
				b.impatient()
				b.settled()
				page, err := b.FindImages(t.Context(), root, daemon.ImageQuery{States: []daemon.ImageState{daemon.ImageError}})
				if wants := kind != "image-verify"; err != nil || (len(page.Images) == 1) != wants || wants && page.Images[0].Cause != op.Cause {
					t.Errorf("%+v, %v", page, err)
				}
				b.machine.mu.Lock()
				defer b.machine.mu.Unlock()
				if len(b.machine.uploads) != 0 {
					t.Errorf("left are %v", b.machine.uploads)
				}
			})
		}
	}
}

// TestCancelledStaysCancelled: the daemon dies after an operation was cancelled and before it has ended. The next one
// takes it back, and does not go on with it.
func TestCancelledStaysCancelled(t *testing.T) {
	b := newBench(t, nil)
	capsule := b.create(alice, b.image())
	reached, release := b.machine.hold("Flatten")
	_, op, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	if _, err := b.CancelOperation(t.Context(), alice, op.ID); err != nil {
		t.Fatal(err)
	}
	b.stop() // and then the call returns, to a daemon that is no more
	release()
	b.kill()
	flattened := b.called("Flatten")
	b.machine.well()
	b.start()
	if op = b.wait(op, nil); op.State != daemon.OperationFailed || op.Cause != "cancelled by alice" {
		t.Errorf("%s: %q", op.State, op.Cause)
	}
	if b.called("Flatten") != flattened {
		t.Error("it was flattened again")
	}
	if c := b.show(capsule); c.State != daemon.Shutdown {
		t.Errorf("the capsule is %s", c.State)
	}
	b.settled()
}

// TestCancelTooLate: a step that ends well while it is being cancelled is taken back all the same; what has ended is not
// cancelled, and what is carried through is not either.
func TestCancelTooLate(t *testing.T) {
	b := newBench(t, nil)
	reached, release := b.machine.hold("Stat")
	i, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "n", Path: sourcePath})
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	if _, err := b.CancelOperation(t.Context(), root, op.ID); err != nil {
		t.Fatal(err)
	}
	release()
	if op = b.wait(op, nil); op.State != daemon.OperationFailed || !strings.Contains(op.Cause, "cancelled by root") {
		t.Errorf("%s: %q", op.State, op.Cause)
	}
	b.machine.well()
	b.settled()
	if i, err := b.Image(t.Context(), root, i.ID); err != nil || i.State != daemon.ImageError {
		t.Errorf("%+v, %v", i, err)
	}
	image := b.image()
	block := b.machine.block("Clone")
	_, op, err = b.CreateCapsule(t.Context(), alice, order(image))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.CancelOperation(t.Context(), alice, op.ID); code(err) != daemon.Conflict || !strings.Contains(err.Error(), "cannot be cancelled") {
		t.Errorf("a creation: %v", err)
	}
	if _, err := b.CancelOperation(t.Context(), alice, "x"); code(err) != daemon.NotFound {
		t.Error(err)
	}
	if _, err := b.CancelOperation(t.Context(), daemon.Caller{}, op.ID); code(err) != daemon.Unauthorized {
		t.Error(err)
	}
	close(block)
	b.succeed(op, nil)
	b.settled()
}

// TestDeadlineIsNoCancellation: a step that took too long says so.
func TestDeadlineIsNoCancellation(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Images = slow{o.Images.(imagesOf)} })
	b.machine.urls[sourceURL] = "x"
	_, op, err := b.AddImage(t.Context(), alice, daemon.NewImage{URL: sourceURL})
	if op = b.wait(op, err); op.Code != daemon.Unavailable || strings.Contains(op.Cause, "cancelled") {
		t.Errorf("%q: %q", op.Code, op.Cause)
	}
	b.settled()
}

// slow is a store whose fetches take longer than they may.
type slow struct{ imagesOf }

func (s slow) Fetch(ctx context.Context, _ imagestore.Fetch, _ imagestore.Progress) (imagestore.Image, error) {
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancel()
	<-ctx.Done()
	return imagestore.Image{}, ctx.Err()
}
