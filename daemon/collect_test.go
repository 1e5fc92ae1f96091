package daemon_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// age makes the last change of an image as old, in the records.
func (b *bench) age(id string, by time.Duration) {
	b.t.Helper()
	if err := b.exec("UPDATE images SET updated_at = ? WHERE id = ?", time.Now().Add(-by).UnixMicro(), id); err != nil {
		b.t.Fatal(err)
	}
}

// TestCollect: what goes, what stays and why; and a dry run changes nothing. A file that no record names is the sweep's.
func TestCollect(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.KeepDeleted = time.Hour })
	same := func(i *store.Image) {
		i.Digest, i.FileBytes = string(of("same").Digest), 4
		b.machine.mu.Lock()
		b.machine.images[of("same").Digest] = of("same")
		b.machine.mu.Unlock()
	}
	old := b.put("old", daemon.ImageDeletePending, nil)
	young := b.put("young", daemon.ImageDeletePending, nil)
	twin := b.put("twin", daemon.ImageDeletePending, same)
	other := b.put("other", daemon.ImageActive, same)
	used := b.put("used", daemon.ImageActive, nil)
	awaited := b.put("awaited", daemon.ImagePending, nil)
	lost := b.put("lost", daemon.ImagePending, nil)
	sent := b.put("sent", daemon.ImagePending, nil)
	if _, err := b.AppendImage(t.Context(), alice, sent, 0, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AppendImage(t.Context(), alice, lost, 0, strings.NewReader("xy")); err != nil {
		t.Fatal(err)
	}
	b.machine.mu.Lock()
	b.machine.uploads["U2"].touched = time.Now().Add(-25 * time.Hour)
	b.machine.mu.Unlock()
	b.machine.mu.Lock()
	b.machine.images[of("orphan").Digest] = of("orphan")
	b.machine.mu.Unlock()
	clone := b.machine.block("Clone")
	_, making, err := b.CreateCapsule(t.Context(), alice, order(used))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, used); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{old, twin, used} {
		b.age(id, 2*time.Hour)
	}
	for _, id := range []string{lost, sent} {
		b.age(id, 25*time.Hour)
	}
	collect := func(dry bool) map[string]daemon.ImageWaste {
		t.Helper()
		waste, err := b.CollectImages(t.Context(), admin, dry)
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]daemon.ImageWaste{}
		for _, w := range waste {
			by[w.Name] = w
		}
		return by
	}
	want := map[string]daemon.ImageWaste{
		"old": {ID: old, Bytes: 3}, "twin": {ID: twin}, "lost": {ID: lost, Bytes: 2},
		"young": {ID: young, Bytes: 5, Kept: "deleted images are kept"}, "used": {ID: used, Bytes: 4, Kept: "capsule"},
	}
	for _, dry := range []bool{true, true, false} {
		got := collect(dry)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(daemon.ImageWaste{}, "Name", "Digest"),
			cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Kept" }, cmp.Comparer(func(a, b string) bool {
				return a == b || a != "" && strings.HasPrefix(b, a) || b != "" && strings.HasPrefix(a, b)
			}))); diff != "" {
			t.Error(diff)
		}
	}
	b.machine.mu.Lock()
	if _, ok := b.machine.images[of("orphan").Digest]; !ok {
		t.Error("a file that no record names went, while a capsule was being made")
	}
	delete(b.machine.images, of("orphan").Digest)
	b.machine.mu.Unlock()
	states := func(want map[string]daemon.ImageState) {
		t.Helper()
		for id, state := range want {
			if i, err := b.Image(t.Context(), alice, id); err != nil || i.State != state || (state == daemon.ImageError) != (i.Cause != "") {
				t.Errorf("%+v, %v; want %s", i, err, state)
			}
		}
	}
	b.until(func() bool {
		i, err := b.Image(t.Context(), alice, twin)
		j, err2 := b.Image(t.Context(), alice, old)
		return err == nil && err2 == nil && i.State == daemon.ImageDeleted && j.State == daemon.ImageDeleted
	})
	states(map[string]daemon.ImageState{
		old: daemon.ImageDeleted, twin: daemon.ImageDeleted, other: daemon.ImageActive, young: daemon.ImageDeletePending,
		used: daemon.ImageDeletePending, awaited: daemon.ImagePending, lost: daemon.ImageError, sent: daemon.ImagePending,
	})
	close(clone)
	b.succeed(making, nil)
	b.machine.well()
	if w := collect(false)["used"]; w.Kept != "" || w.ID == "" {
		t.Errorf("a capsule that is made needs it no more: %+v", w)
	}
	b.settled()
	states(map[string]daemon.ImageState{used: daemon.ImageDeleted})
	for _, who := range []daemon.Caller{alice, peer} {
		if _, err := b.CollectImages(t.Context(), who, true); code(err) != daemon.Forbidden {
			t.Error(err)
		}
	}
	if _, err := b.CollectImages(t.Context(), daemon.Caller{}, true); code(err) != daemon.Unauthorized {
		t.Error(err)
	}
}

// TestCollectorRuns by itself, and begins what it does once.
func TestCollectorRuns(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.CollectEvery = time.Millisecond })
	id := b.put("i", daemon.ImageActive, nil)
	if _, err := b.RequestImageDelete(t.Context(), alice, id); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool {
		i, err := b.Image(t.Context(), alice, id)
		return err == nil && i.State == daemon.ImageDeleted
	})
	b.settled()
	ops, err := b.Operations(t.Context(), root, daemon.OperationFilter{Target: id})
	if err != nil || len(ops) != 1 || ops[0].Actor != "daemon" || ops[0].State != daemon.OperationSucceeded {
		t.Errorf("%+v, %v", ops, err)
	}
}

// TestCorrupt: what a verification finds is told, and changes nothing.
func TestCorrupt(t *testing.T) {
	b := newBench(t, nil)
	id := b.put("i", daemon.ImageActive, nil)
	b.succeed(b.VerifyImage(t.Context(), alice, id))
	b.machine.mu.Lock()
	b.machine.corrupt[of("i").Digest] = true
	b.machine.mu.Unlock()
	op, err := b.VerifyImage(t.Context(), alice, id)
	op = b.wait(op, err)
	if own, err := b.Operation(t.Context(), alice, op.ID); err != nil || own.State != daemon.OperationFailed || !strings.Contains(own.Cause, "its bytes are others") {
		t.Errorf("%+v, %v", own, err)
	}
	if i, err := b.Image(t.Context(), alice, id); err != nil || i.State != daemon.ImageActive {
		t.Errorf("%+v, %v", i, err)
	}
	b.settled()
}
