package api_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon"
)

var epoch = time.Date(2026, 3, 1, 12, 30, 45, 0, time.FixedZone("CET", 3600))

// fakeDaemon is a daemon in memory: capsules, images and operations with states, owners and nothing behind them.
// Operations run until end is called.
type fakeDaemon struct {
	mu       sync.Mutex // guards what follows
	capsules map[string]*daemon.Capsule
	images   map[string]*fakeImage
	queries  []daemon.ImageQuery
	changes  []daemon.ImageChange
	shares   []daemon.NewShare
	metadefs []daemon.Metadef
	ops      []*fakeOperation
	callers  []daemon.Caller // of every verb
	asked    []daemon.NewCapsule
	added    []daemon.NewImage
	switched []switched
	filter   daemon.OperationFilter
	ready    daemon.Readiness
	fail     error                 // what every verb answers, when set
	before   func(context.Context) // called by every verb, when set
	waiting  chan struct{}         // gets a value from every WaitOperation that waits, when set
}

type fakeOperation struct {
	daemon.Operation
	ended chan struct{}
}

func newFake() *fakeDaemon {
	f := &fakeDaemon{capsules: map[string]*daemon.Capsule{}, images: map[string]*fakeImage{}, ready: daemon.Readiness{Ready: true}}
	f.images["image-1"] = &fakeImage{Image: daemon.Image{ID: "image-1", Name: "jammy", Description: "two\nlines", State: daemon.ImageActive, Visibility: daemon.Public,
		Owner: "root", Digest: jammyDigest, Format: "qcow2", FileBytes: int64(len(jammy)), VirtualBytes: 10 << 30, Protected: true, MinDiskGB: 10, MinRAMMB: 512,
		Metadata: map[string]string{"os": "linux"}, SourceCapsule: firstCapsule, LoginUser: "dcuser", LoginPassword: "dcuser", CreatedAt: epoch, UpdatedAt: epoch},
		bytes: []byte(jammy)}
	return f
}

// enter notes the caller and says how the verb must fail, if it must. The lock is not held while a hook runs.
func (f *fakeDaemon) enter(ctx context.Context, c daemon.Caller) error {
	f.mu.Lock()
	f.callers = append(f.callers, c)
	fail, before := f.fail, f.before
	f.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	if c.GUID == "" || c.From == "" || c.Request == "" {
		return &daemon.Error{Code: daemon.Internal, Message: "an incomplete caller"}
	}
	return fail
}

func (f *fakeDaemon) set(change func(*fakeDaemon)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeDaemon) lastCaller() daemon.Caller {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.callers[len(f.callers)-1]
}

func (f *fakeDaemon) begin(c daemon.Caller, kind, target string) daemon.Operation {
	op := &fakeOperation{ended: make(chan struct{}), Operation: daemon.Operation{
		ID: fmt.Sprintf("op-%d", len(f.ops)+1), Kind: kind, Target: target, State: daemon.OperationRunning, Step: "first",
		Steps: []daemon.Step{{Name: "first", State: "running"}, {Name: "second", State: "pending"}},
		Actor: c.GUID, Started: epoch}}
	f.ops = append(f.ops, op)
	return op.Operation
}

// end ends the operation and lets its waiters go.
func (f *fakeDaemon) end(id, cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.ops {
		if op.ID != id {
			continue
		}
		op.State, op.Progress, op.Ended, op.Step = daemon.OperationSucceeded, 100, epoch.Add(2*time.Second), ""
		op.Steps = []daemon.Step{{Name: "first", State: "done", Seconds: 0.25}, {Name: "second", State: "done", Seconds: 1.5}}
		if cause != "" {
			op.State, op.Code, op.Cause = daemon.OperationFailed, daemon.Exhausted, cause
		}
		close(op.ended)
	}
}

func (f *fakeDaemon) CreateCapsule(ctx context.Context, c daemon.Caller, n daemon.NewCapsule) (daemon.Capsule, daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.Capsule{}, daemon.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, n)
	img, ok := f.images[n.ImageID]
	if !ok {
		return daemon.Capsule{}, daemon.Operation{}, &daemon.Error{Code: daemon.NotFound, Message: "no such image"}
	}
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", len(f.capsules)+1)
	f.capsules[id] = &daemon.Capsule{ID: id, Key: "cap-00000001", CreatedAt: epoch, State: daemon.CreatePending, Mode: daemon.NotDefined,
		Observed: "absent", Type: daemon.Research, ImageID: img.ID, ImageName: img.Name, VCPUs: max(n.VCPUs, 1), MemoryMB: max(n.MemoryMB, 1024),
		VolumeGB: 10, SSHPort: 16000, VNCPort: 16001, LoginUser: n.LoginUser, LoginPassword: n.LoginPassword, ImageUser: "dcuser",
		ImagePassword: "dcuser", Consent: n.Consent, About: n.About, Host: "host-1", PublicIP: "192.0.2.1", HostCPUs: 8, HostMemoryGB: 64,
		Members:    []daemon.Member{{GUID: c.GUID, Email: c.Email, Role: daemon.OwnerController, TOU: true, FullAccess: n.FullAccess}},
		CallerRole: daemon.OwnerController, CallerTOU: true, CallerFullAccess: n.FullAccess, CapsuleFullAccess: n.FullAccess}
	return *f.capsules[id], f.begin(c, "create", id), nil
}

func (f *fakeDaemon) act(ctx context.Context, c daemon.Caller, id, kind string, from, to daemon.State) (daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	capsule, ok := f.capsules[id]
	if !ok {
		return daemon.Operation{}, &daemon.Error{Code: daemon.NotFound, Message: "no such capsule"}
	}
	if from != "" && capsule.State != from {
		return daemon.Operation{}, &daemon.Error{Code: daemon.Conflict, Message: "the capsule is " + string(capsule.State)}
	}
	capsule.State = to
	return f.begin(c, kind, id), nil
}

func (f *fakeDaemon) LaunchCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	return f.act(ctx, c, id, "launch", daemon.Shutdown, daemon.LaunchPending)
}

func (f *fakeDaemon) StopCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	return f.act(ctx, c, id, "stop", daemon.Running, daemon.ShutdownPending)
}

func (f *fakeDaemon) DeleteCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	return f.act(ctx, c, id, "delete", "", daemon.DeletePending)
}

func (f *fakeDaemon) ShowCapsules(ctx context.Context, c daemon.Caller, id string) ([]daemon.Capsule, error) {
	if err := f.enter(ctx, c); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if id != "" && f.capsules[id] == nil {
		return nil, &daemon.Error{Code: daemon.NotFound, Message: "no such capsule"}
	}
	var found []daemon.Capsule
	for _, capsule := range f.capsules {
		if id == "" || id == capsule.ID {
			found = append(found, *capsule)
		}
	}
	slices.SortFunc(found, func(a, b daemon.Capsule) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) })
	return found, nil
}

func (f *fakeDaemon) ListCapsules(ctx context.Context, c daemon.Caller) ([]daemon.Capsule, error) {
	return f.ShowCapsules(ctx, c, "")
}

func (f *fakeDaemon) find(id string) (*fakeOperation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.ops {
		if op.ID == id {
			return op, nil
		}
	}
	return nil, &daemon.Error{Code: daemon.NotFound, Message: "no such operation"}
}

func (f *fakeDaemon) Operation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return daemon.Operation{}, err
	}
	op, err := f.find(id)
	if err != nil {
		return daemon.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return op.Operation, nil
}

func (f *fakeDaemon) WaitOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	op, err := f.find(id)
	if err != nil {
		return daemon.Operation{}, err
	}
	if f.waiting != nil {
		f.waiting <- struct{}{}
	}
	select {
	case <-op.ended:
	case <-ctx.Done():
	}
	return f.Operation(context.WithoutCancel(ctx), c, id)
}

func (f *fakeDaemon) Operations(ctx context.Context, c daemon.Caller, filter daemon.OperationFilter) ([]daemon.Operation, error) {
	if err := f.enter(ctx, c); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = filter
	var found []daemon.Operation
	for _, op := range slices.Backward(f.ops) {
		if (filter.Target == "" || filter.Target == op.Target) && (filter.State == "" || filter.State == op.State) {
			found = append(found, op.Operation)
		}
	}
	return found, nil
}

func (f *fakeDaemon) Ready() daemon.Readiness {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}
