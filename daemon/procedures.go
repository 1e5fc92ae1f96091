package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// Kinds of operations. The first seven are asked for by callers; hold is begun by the verifier and the watcher, and the
// next three are how the reconciler brings a record to what it observed.
const (
	opCreate      = "create"
	opLaunch      = "launch"
	opStop        = "stop"
	opDelete      = "delete"
	opEnter       = "enter"        // to secure mode
	opLeave       = "leave"        // back to maintenance, to the clean point
	opReadmit     = "readmit"      // a held capsule whose process is there, back to its mode
	opHold        = "hold"         // it cannot be proved safe: closed and paused
	opPoweroff    = "poweroff"     // the domain is off; the record says that it runs
	opCrash       = "crash"        // the domain died; the record says that it runs
	opEvict       = "evict"        // the domain runs; the record says that it does not
	opImageAdd    = "image-add"    // from a file of the host
	opImageFetch  = "image-fetch"  // from a URL
	opImageFinish = "image-finish" // from bytes that were sent
	opImageShare  = "image-share"  // from the disk of a capsule, which is its target
	opImageDelete = "image-delete"
	opImageVerify = "image-verify"
)

// move is the way of a capsule's state through an operation (contract section 5). A state that is in no row's
// from cannot be left by that operation.
type move struct {
	from    []State
	modes   []Mode // it must be in one of these; empty means that its mode does not matter
	pending State  // "" is the state of switching in the capsule's own mode
	done    State
	mode    Mode // once done; "" keeps it
	failed  State
	lost    Mode // once failed; "" keeps it
}

// moves is the state machine. ERROR may be stopped, beyond the contract: that proves the capsule off and makes it
// SHUTDOWN again, so that an error is not the end of the researcher's data. ERROR with a mode is a capsule that is held.
var moves = map[string]move{
	opCreate:     {from: nil, pending: CreatePending, done: Shutdown, mode: NotDefined, failed: Failed, lost: NotDefined},
	opLaunch:     {from: []State{Shutdown}, pending: LaunchPending, done: Running, mode: Maintenance, failed: Failed, lost: NotDefined},
	opEnter:      {from: []State{Running}, modes: []Mode{Maintenance}, pending: SwitchToSecurePending, done: Running, mode: Secure, failed: Failed, lost: Secure},
	opLeave:      {from: []State{Running, Failed}, modes: []Mode{Secure}, pending: SwitchToMaintenancePending, done: Running, mode: Maintenance, failed: Failed},
	opReadmit:    {from: []State{Failed}, modes: []Mode{Maintenance, Secure}, done: Running, failed: Failed},
	opHold:       {from: []State{Running, Failed}, modes: []Mode{Maintenance, Secure}, done: Failed, failed: Failed},
	opStop:       {from: []State{Running, Failed}, pending: ShutdownPending, done: Shutdown, mode: NotDefined, failed: Failed, lost: NotDefined},
	opDelete:     {from: []State{Shutdown, Running, Failed, DeleteError}, pending: DeletePending, done: Deleted, mode: NotDefined, failed: DeleteError, lost: NotDefined},
	opPoweroff:   {from: []State{Running}, pending: ShutdownPending, done: Shutdown, mode: NotDefined, failed: Failed, lost: NotDefined},
	opCrash:      {from: []State{Running}, pending: ShutdownPending, done: Failed, mode: NotDefined, failed: Failed, lost: NotDefined},
	opImageShare: {from: []State{Shutdown}, pending: ImageSharePending, done: Shutdown, mode: NotDefined, failed: Shutdown, lost: NotDefined},
	opEvict:      {from: []State{Shutdown, Failed}, pending: ShutdownPending, done: Shutdown, mode: NotDefined, failed: Failed, lost: NotDefined},
}

// pendingIn is the state of a capsule in mode while the operation is under way.
func (m move) pendingIn(mode Mode) State { return cmp.Or(m.pending, switching[mode]) }

// stopping is the argument of stop.
type stopping struct {
	Ran bool // and was not held: it had a policy that it may keep
}

// reason is the argument of the operations that the reconciler begins: why, for the record.
type reason struct{ Cause string }

// table is every procedure.
func (d *Daemon) table() map[string]*procedure {
	table := map[string]*procedure{
		opImageAdd:    d.arriving(opImageAdd, "import", (*act).importFile),
		opImageFetch:  d.arriving(opImageFetch, "fetch", (*act).fetchURL),
		opImageFinish: d.finishing(),
		opImageShare:  d.imageShare(),
		opImageDelete: d.imageDelete(),
		opImageVerify: d.imageVerify(),
	}
	for kind, steps := range capsuleSteps() {
		table[kind] = &procedure{kind: kind, steps: steps,
			load: loadCapsule, done: capsuleDone, fail: capsuleFailed,
			after:   (*act).lookAgain,
			limit:   d.limit,
			ordered: kind == opEnter || kind == opLeave || kind == opReadmit,
		}
	}
	return table
}

// capsuleSteps are the steps of every operation on a capsule.
func capsuleSteps() map[string][]step {
	off := []step{{name: "destroy", do: (*act).destroy}, {name: "unfence", do: (*act).unfence}, {name: "forget", do: (*act).forget}}
	return map[string][]step{
		opCreate: {
			{name: "clone", do: (*act).clone, undo: (*act).erase},
			{name: "volumes", do: (*act).cloneVolumes}, // erased with the clone's directory
			{name: "lease", do: (*act).lease, undo: (*act).unlease},
			{name: "define", do: (*act).define, undo: (*act).undefine},
		},
		opLaunch: {
			{name: "admit", do: (*act).admit},
			{name: "forget", do: (*act).forget},
			{name: "lease", do: (*act).lease},
			{name: "define", do: (*act).define},
			{name: "fence", do: (*act).fenceForLaunch, undo: (*act).unfence},
			{name: "start", do: (*act).start, undo: (*act).destroy},
		},
		opEnter: {
			{name: "fence", do: (*act).shut, undo: (*act).reopen},
			{name: "console", do: (*act).cutConsoles},
			{name: "clean-point", do: (*act).cleanPoint, undo: (*act).rollBack},
			{name: "attach", do: (*act).attach},
			{name: "mount", do: (*act).mount},
			{name: "policy", do: (*act).openSecure, undo: (*act).shutAgain, anew: true},
			{name: "verify", do: (*act).verifySecure},
		},
		opLeave: {
			{name: "fence", do: (*act).shut},
			{name: "flush", do: (*act).flush},
			{name: "destroy", do: (*act).destroy},
			{name: "discard", do: (*act).discard},
			{name: "define", do: (*act).defineAnew},
			{name: "restore", do: (*act).restore},
			{name: "verify", do: (*act).verifyRestored},
			{name: "release", do: (*act).release},
			{name: "policy", do: (*act).openMaintenance, undo: (*act).shutAgain, anew: true},
			{name: "resume", do: (*act).unpause, undo: (*act).pause},
			{name: "clock", do: (*act).setClock},
		},
		opReadmit: {
			{name: "fence", do: (*act).shut},
			{name: "verify", do: (*act).verifyShut},
			{name: "policy", do: (*act).openOwn, undo: (*act).shutAgain, anew: true},
			{name: "resume", do: (*act).unpause, undo: (*act).pause},
			{name: "thaw", do: (*act).thaw},
			{name: "clock", do: (*act).setClock},
		},
		opHold:     {{name: "close", do: (*act).tryShut}, {name: "pause", do: (*act).pause}, {name: "unfence", do: (*act).unfence}},
		opStop:     append([]step{{name: "shutdown", do: (*act).shutdown}}, off...),
		opPoweroff: off,
		opCrash:    off,
		opEvict:    off,
		opDelete: append(off[:2:2],
			step{name: "undefine", do: (*act).undefine},
			step{name: "unlease", do: (*act).unlease},
			step{name: "erase", do: (*act).erase},
		),
	}
}

// ramMBPerSecond is how fast RAM is saved and read again at the slowest, on a disk that is busy.
const ramMBPerSecond = 32

// limit gives a guest its grace beyond what libvirt may take, and its RAM the time to be saved and restored.
func (d *Daemon) limit(a *act, step string) time.Duration {
	switch step {
	case "shutdown":
		return stepLimit + d.opt.StopGrace
	case "clean-point", "restore":
		return stepLimit + time.Duration(a.capsule.MemoryMB/ramMBPerSecond)*time.Second
	}
	return stepLimit
}

func loadCapsule(tx *store.Tx, a *act) (err error) {
	a.capsule, err = tx.Capsule(a.op.Target)
	a.pointBefore = cmp.Or(a.capsule.CleanPoint, a.pointBefore)
	return err
}

func capsuleDone(tx *store.Tx, a *act) error {
	m, id := moves[a.proc.kind], a.op.Target
	cause := a.op.Reserved
	if why, err := argument[reason](a); a.op.Argument != "" {
		if err != nil {
			return err
		}
		cause = cmp.Or(why.Cause, cause)
	}
	if err := tx.MoveCapsule(id, []State{m.pendingIn(a.capsule.Mode)}, m.done, cmp.Or(m.mode, a.capsule.Mode), cause); err != nil {
		return err
	}
	if err := a.testify(tx, m.done, cmp.Or(m.mode, a.capsule.Mode), nil); err != nil {
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
	state, mode := m.failed, cmp.Or(m.lost, a.capsule.Mode)
	switch {
	case a.proc.kind == opEnter && a.undone:
		state, mode = Running, Maintenance // as it was
	case a.proc.kind == opEnter && a.capsule.CleanPoint == "":
		mode = Maintenance // no data was near, or it is gone again
	case a.proc.kind == opLeave && a.restored():
		mode = Maintenance // it stands there proved, and only does not run: it is held in the mode that it is in
	}
	text := fmt.Sprintf("%s: step %s: %s (operation %s)", a.proc.kind, a.op.Step, cause.Message, a.op.ID) + a.still()
	if err := tx.MoveCapsule(id, []State{m.pendingIn(a.capsule.Mode)}, state, mode, text); err != nil {
		return err
	}
	if a.proc.kind == opCreate {
		return tx.ReleaseCapsule(id)
	}
	return a.testify(tx, state, mode, cause)
}

// still is what a hold that failed was begun for, to be said after why it failed: that is still to be cured.
func (a *act) still() string {
	if why, err := argument[reason](a); a.proc.kind == opHold && err == nil {
		return "; " + heldFor + origin(why.Cause)
	}
	return ""
}

// --- steps

func (a *act) id() domain.ID { return domain.ID(a.capsule.ID) }

func (a *act) clone(ctx context.Context) error {
	f, err := a.d.files.Clone(ctx, a.capsule.ID, imagestore.Digest(a.capsule.Image.Digest), int64(a.capsule.Image.MinDiskGB)<<30)
	if err != nil {
		return bytesGone(err, a.capsule.ImageID)
	}
	a.say("%s", f.Method)
	return nil
}

func (a *act) cloneVolumes(ctx context.Context) error {
	for _, v := range a.d.volumes(a.capsule.VolumeGB, a.capsule.SpoolGB) {
		if _, err := a.d.files.CloneVolume(ctx, a.capsule.ID, v); err != nil {
			return err
		}
	}
	return nil
}

func (a *act) erase(ctx context.Context) error {
	return errors.Join(a.d.files.Erase(ctx, a.capsule.ID), a.d.domains.DropLog(ctx, a.capsule.Key))
}

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
	if err := a.destroy(ctx); err != nil {
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

func (a *act) fenceForLaunch(ctx context.Context) error { return a.put(ctx, policyMaintenance) }

// put brings the capsule under a policy, which the record does not name yet. While data is near it is refused one that is
// not fit for data: the journal may be a backup that is older than what runs.
func (a *act) put(ctx context.Context, policy string) error {
	b, err := binding(a.capsule, policy)
	if err != nil {
		return err
	}
	if policy == firewall.Closed { // at once, whoever changes rules meanwhile
		a.d.complain(ctx, "link of capsule "+a.capsule.ID, a.d.fences.Shut(b.Tap))
	}
	if err := a.d.fenceMu.take(ctx); err != nil {
		return err
	}
	defer a.d.fenceMu.release()
	if !a.d.fit(policy) && a.d.dataNear(ctx, a.capsule) {
		return errorf(Conflict, "a process has the capsule's volumes or overlay open, so it is not put under policy %s: stop it, and it starts from its disk", policy)
	}
	delete(a.d.unfenced, a.capsule.ID)
	a.d.opened[a.capsule.ID] = policy
	a.d.unnote(a.capsule.ID)
	return a.d.fences.Put(ctx, b)
}

// keepOpen leaves a capsule the network that it has while its guest powers itself off, also when rules are put back.
func (a *act) keepOpen(ctx context.Context) error {
	if err := a.d.fenceMu.take(ctx); err != nil {
		return err
	}
	defer a.d.fenceMu.release()
	if _, known := a.d.opened[a.capsule.ID]; !known && !a.d.noted(a.capsule.ID) { // else closed, because a hold could not be written down
		a.d.opened[a.capsule.ID] = inForce(a.capsule)
	}
	return nil
}

func (a *act) unfence(ctx context.Context) error {
	if err := a.d.fenceMu.take(ctx); err != nil {
		return err
	}
	defer a.d.fenceMu.release()
	delete(a.d.opened, a.capsule.ID)
	a.d.unnote(a.capsule.ID)
	a.d.unfenced[a.capsule.ID] = true
	return a.d.fences.Drop(ctx, a.capsule.Key)
}

// lookAgain has the reconciler look at what came of an operation: libvirt may have said something meanwhile.
func (a *act) lookAgain() {
	a.d.mu.Lock()
	base := a.d.base
	a.d.mu.Unlock()
	if a.d.fenceMu.take(base) == nil { // else the daemon is stopping, and forgets them all
		delete(a.d.unfenced, a.op.Target)
		delete(a.d.opened, a.op.Target)
		a.d.fenceMu.release()
	}
	failed := a.op.State == string(OperationFailed)
	if failed { // what its steps opened is no longer asked for
		a.d.complain(base, "firewall", within(base, stepLimit, a.d.refence))
	}
	a.d.remember(a.op.Target, failed)
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
	if a.op.Argument != "" { // an older version left none
		how, err := argument[stopping](a)
		if err != nil {
			return err
		}
		if how.Ran {
			if err := a.keepOpen(ctx); err != nil {
				return err
			}
		}
	}
	err := a.d.domains.Shutdown(ctx, a.id(), a.d.opt.StopGrace)
	if errors.Is(err, domain.ErrStillRunning) || errors.Is(err, domain.ErrNotFound) {
		return nil
	}
	return err
}

// destroy ends the process, and has the kernel say that it has ended: nothing of the capsule is given up under one that libvirt
// does not know of any more.
func (a *act) destroy(ctx context.Context) error {
	if err := a.d.domains.Destroy(ctx, a.id()); err != nil {
		return err
	}
	return a.d.ended(ctx, a.capsule.ID)
}
