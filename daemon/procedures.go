package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/imagestore"
)

// Kinds of operations. The first four are asked for by callers; the next three are how the reconciler brings a
// record to what it observed.
const (
	opCreate      = "create"
	opLaunch      = "launch"
	opStop        = "stop"
	opDelete      = "delete"
	opPoweroff    = "poweroff" // the domain is off; the record says that it runs
	opCrash       = "crash"    // the domain died; the record says that it runs
	opEvict       = "evict"    // the domain runs; the record says that it does not
	opImageAdd    = "image-add"
	opImageDelete = "image-delete"
)

// move is the way of a capsule's state through an operation (contract section 5). A state that is in no row's
// from cannot be left by that operation.
type move struct {
	from    []State
	pending State
	done    State
	mode    Mode // once done
	failed  State
}

// moves is the state machine. ERROR may be stopped, beyond the contract: that proves the capsule off and makes it
// SHUTDOWN again, so that an error is not the end of the researcher's data.
var moves = map[string]move{
	opCreate:   {nil, CreatePending, Shutdown, NotDefined, Failed},
	opLaunch:   {[]State{Shutdown}, LaunchPending, Running, Maintenance, Failed},
	opStop:     {[]State{Running, Failed}, ShutdownPending, Shutdown, NotDefined, Failed},
	opDelete:   {[]State{Shutdown, Running, Failed, DeleteError}, DeletePending, Deleted, NotDefined, DeleteError},
	opPoweroff: {[]State{Running}, ShutdownPending, Shutdown, NotDefined, Failed},
	opCrash:    {[]State{Running}, ShutdownPending, Failed, NotDefined, Failed},
	opEvict:    {[]State{Shutdown, Failed}, ShutdownPending, Shutdown, NotDefined, Failed},
}

// reason is the argument of the operations that the reconciler begins: why, for the record.
type reason struct{ Cause string }

// table is every procedure.
func (d *Daemon) table() map[string]*procedure {
	off := []step{{"destroy", (*act).destroy, nil}, {"unfence", (*act).unfence, nil}}
	capsule := map[string][]step{
		opCreate: {
			{"clone", (*act).clone, (*act).erase},
			{"volumes", (*act).cloneVolumes, nil}, // erased with the clone's directory
			{"lease", (*act).lease, (*act).unlease},
			{"define", (*act).define, (*act).undefine},
		},
		opLaunch: {
			{"admit", (*act).admit, nil},
			{"lease", (*act).lease, nil},
			{"define", (*act).define, nil},
			{"fence", (*act).fence, (*act).unfence},
			{"start", (*act).start, (*act).destroy},
		},
		opStop:     append([]step{{"shutdown", (*act).shutdown, nil}}, off...),
		opPoweroff: off,
		opCrash:    off,
		opEvict:    off,
		opDelete: append(off[:2:2],
			step{"undefine", (*act).undefine, nil},
			step{"unlease", (*act).unlease, nil},
			step{"erase", (*act).erase, nil},
		),
	}
	table := map[string]*procedure{
		opImageAdd:    d.imageAdd(),
		opImageDelete: d.imageDelete(),
	}
	for kind, steps := range capsule {
		table[kind] = &procedure{kind: kind, steps: steps,
			load: loadCapsule, done: capsuleDone, fail: capsuleFailed,
			after: (*act).lookAgain,
			limit: d.limit,
		}
	}
	return table
}

// limit gives a guest its grace beyond what libvirt may take.
func (d *Daemon) limit(step string) time.Duration {
	if step == "shutdown" {
		return stepLimit + d.opt.StopGrace
	}
	return stepLimit
}

func loadCapsule(tx *store.Tx, a *act) (err error) {
	a.capsule, err = tx.Capsule(a.op.Target)
	return err
}

func capsuleDone(tx *store.Tx, a *act) error {
	m, id := moves[a.proc.kind], a.op.Target
	cause := ""
	if a.op.Argument != "" {
		why, err := argument[reason](a)
		if err != nil {
			return err
		}
		cause = why.Cause
	}
	if err := tx.MoveCapsule(id, []State{m.pending}, m.done, m.mode, cause); err != nil {
		return err
	}
	switch a.proc.kind {
	case opCreate:
		return tx.MarkProvisioned(id)
	case opDelete:
		return errors.Join(tx.ReleaseCapsule(id), tx.BuryCapsule(id, time.Now()))
	}
	return nil
}

func capsuleFailed(tx *store.Tx, a *act, cause *Error) error {
	m, id := moves[a.proc.kind], a.op.Target
	text := fmt.Sprintf("%s: step %s: %s (operation %s)", a.proc.kind, a.op.Step, cause.Message, a.op.ID)
	if err := tx.MoveCapsule(id, []State{m.pending}, m.failed, NotDefined, text); err != nil {
		return err
	}
	if a.proc.kind == opCreate {
		return tx.ReleaseCapsule(id)
	}
	return nil
}

// --- steps

func (a *act) id() domain.ID { return domain.ID(a.capsule.ID) }

func (a *act) clone(ctx context.Context) error {
	_, err := a.d.files.Clone(ctx, a.capsule.ID, imagestore.Digest(a.capsule.Image.Digest))
	if errors.Is(err, imagestore.ErrNotFound) {
		return &Error{Code: Internal, Message: "the bytes of image " + a.capsule.ImageID + " are gone from the store: add the same file again", Err: err}
	}
	return err
}

func (a *act) cloneVolumes(ctx context.Context) error {
	for _, v := range a.d.volumes(a.capsule.VolumeGB, a.capsule.SpoolGB) {
		if _, err := a.d.files.CloneVolume(ctx, a.capsule.ID, v); err != nil {
			return err
		}
	}
	return nil
}

func (a *act) erase(ctx context.Context) error { return a.d.files.Erase(ctx, a.capsule.ID) }

func (a *act) lease(ctx context.Context) error {
	l, err := lease(a.capsule)
	if err != nil {
		return err
	}
	a.d.leaseMu.Lock()
	defer a.d.leaseMu.Unlock()
	return a.d.hyper.PutLease(ctx, a.d.opt.Network.Name, l)
}

func (a *act) unlease(ctx context.Context) error {
	if a.capsule.MAC == "" { // a creation that failed has given it back
		return nil
	}
	mac, err := net.ParseMAC(a.capsule.MAC)
	if err != nil {
		return err
	}
	a.d.leaseMu.Lock()
	defer a.d.leaseMu.Unlock()
	return a.d.hyper.DropLease(ctx, a.d.opt.Network.Name, mac)
}

// define writes the domain as maintenance mode has it: it is what starts next, whoever starts it.
func (a *act) define(ctx context.Context) error {
	files, err := a.d.files.Files(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	spec, err := a.d.spec(a.capsule, Maintenance, files)
	if err != nil {
		return err
	}
	return a.d.domains.Define(ctx, spec)
}

func (a *act) undefine(ctx context.Context) error {
	// A domain that runs cannot be undefined; in the undo of a creation and in a deletion it is not to run.
	if err := a.d.domains.Destroy(ctx, a.id()); err != nil {
		return err
	}
	return a.d.domains.Undefine(ctx, a.id())
}

// admit refuses to start what the host's memory cannot hold: better a clear error now than the kernel's choice
// of a victim later. The same for ports that something else has taken since: the forward would take them from it.
func (a *act) admit(ctx context.Context) error {
	o, err := a.d.domains.ObserveOne(ctx, a.id())
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	if o.State == domain.Running || o.State == domain.Paused {
		return nil // taken up after a crash of the daemon: it has what it needs
	}
	free, err := a.d.freeMemory(ctx, a.capsule.ID)
	if err != nil {
		return err
	}
	if need := footprint(a.capsule.MemoryMB); need > free {
		return errorf(Exhausted, "the host has %d MB of memory left, and the capsule needs %d MB", free>>20, need>>20)
	}
	for _, p := range []struct {
		use  string
		port int
	}{{"console", a.capsule.VNCPort}, {"ssh", a.capsule.SSHPort}} {
		if !portFree(p.port) {
			return errorf(Exhausted, "port %d of the host, the capsule's %s port, is in use by another program", p.port, p.use)
		}
	}
	return nil
}

func (a *act) fence(ctx context.Context) error {
	b, err := binding(a.capsule, Maintenance)
	if err != nil {
		return err
	}
	a.d.fenceMu.Lock()
	defer a.d.fenceMu.Unlock()
	delete(a.d.unfenced, a.capsule.ID)
	return a.d.fences.Put(ctx, b)
}

func (a *act) unfence(ctx context.Context) error {
	a.d.fenceMu.Lock()
	defer a.d.fenceMu.Unlock()
	a.d.unfenced[a.capsule.ID] = true
	return a.d.fences.Drop(ctx, a.capsule.Key)
}

// lookAgain has the reconciler look at what came of an operation: libvirt may have said something meanwhile.
func (a *act) lookAgain() {
	a.d.fenceMu.Lock()
	delete(a.d.unfenced, a.op.Target)
	a.d.fenceMu.Unlock()
	a.d.remember(a.op.Target, a.op.State == string(OperationFailed))
	if a.op.Kind == opDelete { // deleted means destroyed: the password is not to be read in the log of the records
		ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
		defer cancel()
		a.d.complain(ctx, "checkpoint of the records", a.d.store.Checkpoint(ctx))
	}
	a.d.look(a.op.Target)
}

func (a *act) start(ctx context.Context) error { return a.d.domains.Start(ctx, a.id()) }

// shutdown asks the guest, and is content when it will not: the next step does not ask.
func (a *act) shutdown(ctx context.Context) error {
	err := a.d.domains.Shutdown(ctx, a.id(), a.d.opt.StopGrace)
	if errors.Is(err, domain.ErrStillRunning) || errors.Is(err, domain.ErrNotFound) {
		return nil
	}
	return err
}

func (a *act) destroy(ctx context.Context) error { return a.d.domains.Destroy(ctx, a.id()) }
