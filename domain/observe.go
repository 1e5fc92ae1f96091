package domain

import (
	"context"
	"fmt"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
)

// lookTimeout bounds the look at one domain, so that one that hangs in libvirt costs the others no more.
const lookTimeout = 5 * time.Second

// Observe tells of every domain that carries our metadata what libvirt knows of it now; strangers are not in
// the map. One that libvirt did not answer for in time is there with its ID and name and State Unknown, and
// nothing else: whose it is could not be read either. An error means that nothing is known, not that nothing
// is there.
func (h *Host) Observe(ctx context.Context) (map[ID]Observed, error) {
	found, err := call(ctx, h, "list", h.lanes.quick, list)
	if err != nil {
		return nil, wrap("observe", err)
	}
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		all = make(map[ID]Observed, len(found))
	)
	// As many workers as calls may be under way: more would only wait.
	work := make(chan Observed)
	for range cap(h.lanes.quick) {
		wg.Go(func() {
			for o := range work {
				if o, ours := h.look(ctx, o); ours {
					mu.Lock()
					all[o.ID] = o
					mu.Unlock()
				}
			}
		})
	}
	for _, o := range found {
		work <- o
	}
	close(work)
	wg.Wait()
	if err := h.Connected(); err != nil {
		return nil, wrap("observe", err)
	}
	return all, nil
}

// list names every domain there is.
func list(c *libvirt.Connect) ([]Observed, error) {
	doms, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	found := make([]Observed, 0, len(doms))
	for _, d := range doms {
		// Both are in the handle: no call is made.
		id, err := d.GetUUIDString()
		name, nerr := d.GetName()
		_ = d.Free()
		if err == nil && nerr == nil {
			found = append(found, Observed{ID: ID(id), Name: name})
		}
	}
	return found, nil
}

// look observes one domain of a list. It is not ours when libvirt says that it has no mark, or is gone.
func (h *Host) look(ctx context.Context, o Observed) (Observed, bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	seen, err := h.ObserveOne(ctx, o.ID)
	switch {
	case err == nil:
		return seen, true
	case class(err) == ErrNotFound:
		return Observed{}, false
	default:
		return o, true
	}
}

// ObserveOne tells what libvirt knows of one domain now. ErrNotFound: not defined, or not ours. Any other error
// means that its state is unknown, never that it is off.
func (h *Host) ObserveOne(ctx context.Context, id ID) (Observed, error) {
	o, err := call(ctx, h, "observe", h.lanes.quick, func(c *libvirt.Connect) (Observed, error) {
		d, who, err := lookup(c, id)
		if err != nil {
			return Observed{}, err
		}
		defer d.Free()
		name, err := d.GetName()
		if err != nil {
			return Observed{}, err
		}
		state, reason, err := d.GetState()
		if err != nil {
			return Observed{}, err
		}
		o := Observed{ID: id, Name: name, Record: who.Record, SpecHash: who.Hash}
		o.State, o.Reason = translate(state, reason)
		return o, nil
	})
	return o, wrap(fmt.Sprintf("observe %s", id), err)
}

// states translates libvirt's domain states. NOSTATE, and what a later libvirt may add, is Unknown.
var states = map[libvirt.DomainState]RunState{
	libvirt.DOMAIN_RUNNING:     Running,
	libvirt.DOMAIN_BLOCKED:     Running,
	libvirt.DOMAIN_SHUTDOWN:    Running, // on its way: the process is still there
	libvirt.DOMAIN_PAUSED:      Paused,
	libvirt.DOMAIN_PMSUSPENDED: Paused,
	libvirt.DOMAIN_CRASHED:     Paused, // the guest crashed and the process was kept
	libvirt.DOMAIN_SHUTOFF:     Off,
}

// offReasons and pauseReasons translate why. What is not listed is ReasonOther; what libvirt does not know (a
// domain that has not run since libvirtd started) is ReasonNone.
var (
	offReasons = map[libvirt.DomainShutoffReason]Reason{
		libvirt.DOMAIN_SHUTOFF_UNKNOWN:   ReasonNone,
		libvirt.DOMAIN_SHUTOFF_SHUTDOWN:  ReasonShutdown,
		libvirt.DOMAIN_SHUTOFF_DESTROYED: ReasonDestroyed,
		libvirt.DOMAIN_SHUTOFF_CRASHED:   ReasonCrashed,
		libvirt.DOMAIN_SHUTOFF_FAILED:    ReasonFailed,
		libvirt.DOMAIN_SHUTOFF_DAEMON:    ReasonDaemon,
	}
	pauseReasons = map[libvirt.DomainPausedReason]Reason{
		libvirt.DOMAIN_PAUSED_IOERROR: ReasonIOError,
		libvirt.DOMAIN_PAUSED_CRASHED: ReasonCrashed,
	}
)

func translate(state libvirt.DomainState, reason int) (RunState, Reason) {
	var (
		r  Reason
		ok bool
	)
	switch s := states[state]; s {
	case Off:
		r, ok = offReasons[libvirt.DomainShutoffReason(reason)]
	case Paused:
		if state == libvirt.DOMAIN_CRASHED {
			return s, ReasonCrashed
		}
		r, ok = pauseReasons[libvirt.DomainPausedReason(reason)]
	default:
		return s, ReasonNone
	}
	if !ok {
		r = ReasonOther
	}
	return states[state], r
}
