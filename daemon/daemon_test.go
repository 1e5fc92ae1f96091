package daemon_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLife(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	if got := b.show(id); got.State != daemon.Shutdown || got.Mode != daemon.NotDefined || got.Observed != "off" || got.SSHPort >= got.VNCPort {
		t.Fatalf("after create: %+v", got)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	if got := b.show(id); got.State != daemon.Running || got.Mode != daemon.Maintenance || got.Observed != "running" {
		t.Fatalf("after launch: %+v", got)
	}
	if _, err := b.LaunchCapsule(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("launched twice: %v", err)
	}
	b.settled()
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.settled()
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("stopped twice: %v", err)
	}
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	op, err := b.DeleteCapsule(t.Context(), alice, id)
	if _, err := b.ShowCapsules(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("a capsule on its way out is shown: %v", err)
	}
	b.succeed(op, err)
	b.settled()
	if _, err := b.DeleteCapsule(t.Context(), alice, id); code(err) != daemon.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	if len(b.machine.domains) != 0 {
		t.Error("a domain is left")
	}
}

func TestStrangers(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	for name, ask := range map[string]func(context.Context, daemon.Caller, string) (daemon.Operation, error){
		"launch": b.LaunchCapsule, "stop": b.StopCapsule, "delete": b.DeleteCapsule,
	} {
		if _, err := ask(t.Context(), bob, id); code(err) != daemon.NotFound {
			t.Errorf("%s by a stranger: %v", name, err)
		}
		if _, err := ask(t.Context(), daemon.Caller{}, id); code(err) != daemon.Unauthorized {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	if all, err := b.ListCapsules(t.Context(), bob); err != nil || len(all) != 0 {
		t.Errorf("a stranger lists %v, %v", all, err)
	}
	if _, _, err := b.AddImage(t.Context(), daemon.Caller{GUID: "eve", Roles: []string{"admin"}}, daemon.NewImage{Name: "x", Path: sourcePath}); code(err) != daemon.Forbidden {
		t.Errorf("a remote administrator names a file of the host: %v", err)
	}
}

func TestQuotaUnderRace(t *testing.T) {
	b := newBench(t, nil)
	image := b.image()
	var mu sync.Mutex
	var codes []daemon.Code
	var wg sync.WaitGroup
	for range 12 { // the quota has room for four vcpus
		wg.Go(func() {
			_, _, err := b.CreateCapsule(t.Context(), alice, order(image))
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, code(err))
		})
	}
	wg.Wait()
	slices.Sort(codes)
	if n := len(codes) - slices.Index(codes, daemon.OverQuota); codes[3] != "" || n != 8 {
		t.Errorf("of twelve creations within a quota of four: %v", codes)
	}
	b.settled()
}

func TestPortsRunOut(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.PortHigh = o.PortLow + 2; o.Quota.CPUs = 10 })
	image := b.image()
	id := b.create(alice, image)
	if _, _, err := b.CreateCapsule(t.Context(), alice, order(image)); code(err) != daemon.Exhausted {
		t.Fatalf("a second capsule in three ports: %v", err)
	}
	b.settled()
	b.succeed(b.DeleteCapsule(t.Context(), alice, id))
	b.create(alice, image)
	b.settled()
}

func TestTwoRequestsAtOnce(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	release := b.machine.block("Start")
	op, err := b.LaunchCapsule(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Busy {
		t.Errorf("a second request: %v", err)
	}
	close(release)
	b.succeed(op, nil)
	b.settled()
}

func TestWhatLibvirtSays(t *testing.T) {
	for name, c := range map[string]struct {
		reason domain.Reason
		want   daemon.State
	}{
		"the guest powers itself off": {domain.ReasonShutdown, daemon.Shutdown},
		"QEMU dies":                   {domain.ReasonCrashed, daemon.Failed},
		"QEMU's monitor vanishes":     {domain.ReasonFailed, daemon.Failed},
		"someone destroys it":         {domain.ReasonDestroyed, daemon.Shutdown},
		"the host was rebooted":       {domain.ReasonOther, daemon.Shutdown},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			id := b.create(alice, b.image())
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.machine.mu.Lock()
			d := b.machine.domains[domain.ID(id)]
			d.state, d.reason = domain.Off, c.reason
			b.machine.mu.Unlock()
			b.machine.events <- domain.Event{ID: domain.ID(id)}
			b.until(func() bool { s := b.show(id).State; return s != daemon.Running && s != daemon.ShutdownPending })
			got := b.show(id)
			if got.State != c.want || (got.Cause == "") != (c.reason == domain.ReasonShutdown) {
				t.Errorf("state %s, cause %q", got.State, got.Cause)
			}
			b.settled()
			if got.State == daemon.Failed { // repaired by a stop, and usable again
				b.succeed(b.StopCapsule(t.Context(), alice, id))
			}
			b.succeed(b.LaunchCapsule(t.Context(), alice, id))
			b.settled()
		})
	}
}

func TestUnknownIsNotOff(t *testing.T) {
	b := newBench(t, nil)
	id := b.create(alice, b.image())
	b.succeed(b.LaunchCapsule(t.Context(), alice, id))
	b.machine.mu.Lock()
	b.machine.down = errors.New("libvirtd is gone")
	b.machine.mu.Unlock()
	if got := b.show(id); got.Observed != "unknown" || got.State != daemon.Running {
		t.Errorf("while libvirt is away: %s, %s", got.State, got.Observed)
	}
	if r := b.Ready(); r.Ready || len(r.Reasons) == 0 {
		t.Errorf("ready while libvirt is away: %+v", r)
	}
	if _, err := b.StopCapsule(t.Context(), alice, id); code(err) != daemon.Unavailable {
		t.Errorf("stop while libvirt is away: %v", err)
	}
	b.machine.mu.Lock()
	b.machine.down = nil
	b.machine.mu.Unlock()
	b.machine.events <- domain.Event{}
	b.succeed(b.StopCapsule(t.Context(), alice, id))
	b.settled()
}

// TestLostRecords: with records that know nothing the daemon does not run over capsules, nor over images, which may be the
// only copy of what was shared or sent.
func TestLostRecords(t *testing.T) {
	for name, make := range map[string]func(*bench){
		"capsules": func(b *bench) {
			b.create(alice, b.image())
			b.machine.mu.Lock()
			clear(b.machine.images)
			b.machine.mu.Unlock()
		},
		"images": func(b *bench) { b.image() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			make(b)
			b.kill()
			b.db.Close()
			db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "capsuled.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			b.db = db
			before := len(b.machine.dirs) + len(b.machine.domains) + len(b.machine.images)
			ready := b.launch()
			select {
			case err = <-b.done:
			case <-ready:
				b.kill()
			}
			if b.stop = nil; err == nil {
				t.Errorf("the daemon runs over %s that its records do not know", name)
			}
			if before == 0 || before != len(b.machine.dirs)+len(b.machine.domains)+len(b.machine.images) {
				t.Error("it destroyed what it could not explain")
			}
		})
	}
}
