package daemon_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
)

// deeds are what a daemon can be doing when trouble comes. Each prepares a bench and returns what begins it.
var deeds = map[string]func(*bench) func() (daemon.Operation, error){
	"image-add": func(b *bench) func() (daemon.Operation, error) {
		return func() (daemon.Operation, error) {
			_, op, err := b.AddImage(b.t.Context(), root, daemon.NewImage{Name: "guest", Path: sourcePath})
			return op, err
		}
	},
	"image-delete": func(b *bench) func() (daemon.Operation, error) {
		id := b.image()
		return func() (daemon.Operation, error) { return b.DeleteImage(b.t.Context(), root, id) }
	},
	"image-fetch": func(b *bench) func() (daemon.Operation, error) {
		b.machine.urls[sourceURL] = "QFI fetched"
		return func() (daemon.Operation, error) {
			_, op, err := b.AddImage(b.life, alice, daemon.NewImage{Name: "guest", URL: sourceURL})
			return op, err
		}
	},
	"image-finish": func(b *bench) func() (daemon.Operation, error) {
		return func() (daemon.Operation, error) { return b.send(b.life, alice, "guest", "some ", "bytes") }
	},
	"image-share": func(b *bench) func() (daemon.Operation, error) {
		id := b.create(alice, b.image())
		return func() (daemon.Operation, error) {
			_, op, err := b.ShareCapsule(b.life, alice, daemon.NewShare{Capsule: id, Name: "shared"})
			return op, err
		}
	},
	"image-verify": func(b *bench) func() (daemon.Operation, error) {
		id := b.image()
		return func() (daemon.Operation, error) { return b.VerifyImage(b.life, root, id) }
	},
	"image-purge": func(b *bench) func() (daemon.Operation, error) {
		id := b.image()
		if _, err := b.RequestImageDelete(b.life, root, id); err != nil {
			b.t.Fatal(err)
		}
		return func() (daemon.Operation, error) { return b.PurgeImage(b.life, root, id) }
	},
	"create": func(b *bench) func() (daemon.Operation, error) {
		image := b.image()
		return func() (daemon.Operation, error) {
			_, op, err := b.CreateCapsule(b.t.Context(), alice, order(image))
			return op, err
		}
	},
	"launch": func(b *bench) func() (daemon.Operation, error) {
		id := b.create(alice, b.image())
		return func() (daemon.Operation, error) { return b.LaunchCapsule(b.t.Context(), alice, id) }
	},
	"stop": func(b *bench) func() (daemon.Operation, error) {
		id := b.create(alice, b.image())
		b.machine.stubborn = true // so that the hard way is gone too
		b.succeed(b.LaunchCapsule(b.t.Context(), alice, id))
		return func() (daemon.Operation, error) { return b.StopCapsule(b.t.Context(), alice, id) }
	},
	"enter": func(b *bench) func() (daemon.Operation, error) {
		id := b.launched()
		return func() (daemon.Operation, error) {
			return b.SwitchCapsule(b.t.Context(), alice, id, daemon.Secure, false)
		}
	},
	"leave": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		return func() (daemon.Operation, error) {
			return b.SwitchCapsule(b.t.Context(), alice, id, daemon.Maintenance, false)
		}
	},
	"readmit": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		b.hold(id)
		return func() (daemon.Operation, error) { return b.ResumeCapsule(b.t.Context(), root, id) }
	},
	"leave of one that is held": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		b.machine.faultAt("Restore")
		b.wait(b.SwitchCapsule(b.t.Context(), alice, id, daemon.Maintenance, false))
		b.machine.well()
		b.idle()
		return func() (daemon.Operation, error) { return b.ResumeCapsule(b.t.Context(), root, id) }
	},
	"hold": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		return b.begun("hold", id)
	},
	"poweroff": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		b.machine.over(id, domain.ReasonShutdown)
		return b.begun("poweroff", id)
	},
	"crash": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		b.machine.over(id, domain.ReasonCrashed)
		return b.begun("crash", id)
	},
	"evict": func(b *bench) func() (daemon.Operation, error) {
		id := b.create(alice, b.image())
		b.machine.mu.Lock()
		b.machine.domains[domain.ID(id)].state = domain.Running // by others, and closed: it is nobody's tap
		b.machine.mu.Unlock()
		return b.begun("evict", id)
	},
	"stop in secure mode": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		b.machine.stubborn = true
		return func() (daemon.Operation, error) { return b.StopCapsule(b.t.Context(), alice, id) }
	},
	"delete in secure mode": func(b *bench) func() (daemon.Operation, error) {
		id := b.secured()
		return func() (daemon.Operation, error) { return b.DeleteCapsule(b.t.Context(), alice, id) }
	},
	"delete": func(b *bench) func() (daemon.Operation, error) {
		id := b.create(alice, b.image())
		b.succeed(b.LaunchCapsule(b.t.Context(), alice, id))
		return func() (daemon.Operation, error) { return b.DeleteCapsule(b.t.Context(), alice, id) }
	},
}

// over ends a machine by itself.
func (m *machine) over(id string, r domain.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.domains[domain.ID(id)].end(r)
}

// begun begins what the daemon begins by itself, unless the reconciler was faster.
func (b *bench) begun(kind, id string) func() (daemon.Operation, error) {
	d := b.Daemon // the one that is killed; another may have come when it answers
	return func() (daemon.Operation, error) {
		op, err := d.Begin(b.t.Context(), kind, id)
		if c := code(err); c != daemon.Busy && c != daemon.Conflict {
			return op, err
		}
		newest, lookErr := d.Operations(b.t.Context(), root, daemon.OperationFilter{Target: id, Limit: 1})
		if lookErr != nil || len(newest) == 0 || newest[0].Kind != kind {
			return op, err
		}
		return newest[0], nil
	}
}

// TestEveryKindIsADeed: an operation of a new kind is killed and failed at every call as well.
func TestEveryKindIsADeed(t *testing.T) {
	done := map[string]bool{}
	var kinds []string
	for name, deed := range deeds {
		b := newBench(t, nil)
		begin := deed(b)
		op, err := begin()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		done[op.Kind] = true
		kinds = b.Kinds()
		b.idle()
		b.kill()
	}
	for _, kind := range kinds {
		if !done[kind] {
			t.Errorf("nothing is done to %s", kind)
		}
	}
}

// at makes one fault, at the call with number n after now.
func (m *machine) at(n int, f fault) (struck *atomic.Bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := len(m.calls)
	struck = new(atomic.Bool)
	m.fault = func(i int, _ string) fault {
		if i != first+n {
			return none
		}
		struck.Store(true)
		return f
	}
	return struck
}

func (m *machine) well() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = nil
}

// TestDeathAtEveryCall kills the daemon before and after each call that an operation makes, starts another, and finds
// the operation carried through and nothing orphaned. The calls are counted, not listed: a new step is killed too.
func TestDeathAtEveryCall(t *testing.T) {
	for name, deed := range deeds {
		for f, when := range map[fault]string{dieBefore: "before", dieAfter: "after"} {
			calls := 0
			for n := 0; ; n++ {
				t.Run(fmt.Sprintf("%s/%s/%d", name, when, n), func(t *testing.T) {
					b := newBench(t, nil)
					begin := deed(b)
					struck := b.machine.at(n, f)
					began := make(chan daemon.Operation, 1)
					go func() {
						op, err := begin()
						if err != nil && !struck.Load() {
							t.Error(err)
						}
						began <- op
					}()
					var op daemon.Operation
					b.until(func() bool {
						select {
						case op = <-began:
						default:
						}
						o, err := b.Operation(t.Context(), root, op.ID)
						return struck.Load() || err == nil && o.State != daemon.OperationRunning
					})
					if !struck.Load() {
						return // there is no such call: the operation is through
					}
					calls++
					b.kill()
					b.machine.well()
					b.start()
					select {
					case op = <-began:
					default:
					}
					if op.ID != "" { // else it died before the intent was written
						b.succeed(op, nil)
					}
					b.settled()
				})
				if calls <= n {
					break
				}
			}
			if calls == 0 {
				t.Errorf("%s: no call was struck", name)
			}
		}
	}
}

// TestErrorAtEveryCall fails each call of each operation in turn, before and after its effect: the operation ends with
// a cause, the capsule is in a state that it can be brought out of, and deleting it leaves nothing.
func TestErrorAtEveryCall(t *testing.T) {
	for name, deed := range deeds {
		for f, when := range map[fault]string{errBefore: "before", errAfter: "after"} {
			calls := 0
			for n := 0; ; n++ {
				t.Run(fmt.Sprintf("%s/%s/%d", name, when, n), func(t *testing.T) {
					b := newBench(t, nil)
					begin := deed(b)
					struck := b.machine.at(n, f)
					op, err := begin()
					if err != nil && struck.Load() { // refused before anything was begun
						calls++
						b.machine.well()
						b.recover()
						b.settled()
						return
					}
					op = b.wait(op, err)
					b.idle()
					if !struck.Load() {
						return
					}
					calls++
					b.machine.well()
					if op.State == daemon.OperationFailed && op.Cause == "" {
						t.Error("it failed without a cause")
					}
					b.machine.events <- domain.Event{} // look at everything
					b.until(func() bool { return len(b.machine.events) == 0 })
					b.recover()
					b.settled()
				})
				if calls <= n {
					break
				}
			}
			if calls == 0 {
				t.Errorf("%s: no call was struck", name)
			}
		}
	}
}

// recover does what an operator would: what is in ERROR is stopped if it can be, else deleted.
func (b *bench) recover() {
	b.t.Helper()
	b.until(func() bool {
		b.idle()
		hidden := 0
		for _, s := range b.states() {
			if s == daemon.DeleteError {
				hidden++
			}
		}
		if hidden > 0 {
			b.machine.events <- domain.Event{}
		}
		return hidden == 0
	})
	all, err := b.ListCapsules(b.t.Context(), root)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range all {
		if c.State != daemon.Failed {
			continue
		}
		if c.Cause == "" {
			b.t.Errorf("%s is in ERROR without a cause", c.ID)
		}
		if c.Mode != daemon.NotDefined { // held: it may go on where it was, or from its clean point
			if op, err := b.ResumeCapsule(b.t.Context(), root, c.ID); err == nil && b.wait(op, nil).State == daemon.OperationSucceeded {
				continue
			}
		}
		b.succeed(b.free(func(ctx context.Context, who daemon.Caller, id string) (daemon.Operation, error) {
			op, err := b.StopCapsule(ctx, who, id)
			if err != nil {
				op, err = b.DeleteCapsule(ctx, who, id)
			}
			return op, err
		}, root, c.ID))
	}
}

// TestDeathInUndo kills the daemon at every call of the way back from an entry that failed: the next one goes on with the
// way back, and the operation ends with the cause that it failed for.
func TestDeathInUndo(t *testing.T) {
	for f, when := range map[fault]string{dieBefore: "before", dieAfter: "after"} {
		calls := 0
		for n := 0; ; n++ {
			t.Run(fmt.Sprintf("%s/%d", when, n), func(t *testing.T) {
				b := newBench(t, nil)
				id := b.launched()
				var struck atomic.Bool
				mounted, failedAt := false, -1
				b.machine.mu.Lock()
				b.machine.fault = func(i int, call string) fault {
					mounted = mounted || call == "GuestMount"
					if call == "Put" && mounted && failedAt < 0 {
						failedAt = i
						return errBefore // the secure policy
					}
					if failedAt >= 0 && i == failedAt+1+n {
						struck.Store(true)
						return f
					}
					return none
				}
				b.machine.mu.Unlock()
				op, err := b.SwitchCapsule(t.Context(), alice, id, daemon.Secure, false)
				if err != nil {
					t.Fatal(err)
				}
				b.until(func() bool {
					o, err := b.Operation(t.Context(), root, op.ID)
					return struck.Load() || err == nil && o.State != daemon.OperationRunning
				})
				if !struck.Load() {
					return
				}
				calls++
				b.kill()
				b.machine.well()
				b.start()
				o := b.wait(op, nil)
				if o.State != daemon.OperationFailed || o.Step != "policy" || strings.Count(o.Cause, "injected") != 1 || strings.Count(o.Cause, "internal error") != 1 {
					t.Errorf("%s at %s: %q", o.State, o.Step, o.Cause)
				}
				if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Maintenance {
					t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
				}
				b.settled()
			})
			if calls <= n {
				break
			}
		}
		if calls == 0 {
			t.Error("no call was struck")
		}
	}
}
