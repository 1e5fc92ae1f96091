package domain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
)

// lane is a semaphore that can be waited for with a context.
type lane chan struct{}

func (l lane) enter(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l lane) leave() { <-l }

// lanes bound how many calls are under way at once, and keep those that may hang out of the way of the rest. All
// together, with the statistics' own, they stay below libvirtd's 20 workers.
type lanes struct {
	quick   lane // looks only
	slow    lane // definitions, starts, destroys
	guest   lane // what the guest or its QEMU may leave unanswered for as long as it likes
	network lane // one change to the network at a time: read, compare, update
}

func newLanes() lanes {
	return lanes{quick: make(lane, 4), slow: make(lane, 4), guest: make(lane, 4), network: make(lane, 1)}
}

// call runs f with a connection of its own and waits for it until ctx ends, or for Options.CallTimeout when ctx has no
// deadline, or until the session is lost. A cgo call cannot be interrupted: when the wait ends first, f runs on, its result is thrown away,
// and it keeps its lane until it returns. So f must share nothing with its caller but arguments and result.
// name is one of a few constants: it becomes a metric's label.
func call[T any](ctx context.Context, h *Host, name string, way lane, f func(*libvirt.Connect) (T, error)) (T, error) {
	var none T
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.opt.CallTimeout)
		defer cancel()
	}
	s, err := h.current()
	if err != nil {
		return none, err
	}
	if err := way.enter(ctx); err != nil {
		return none, fmt.Errorf("waiting for a turn: %w", err)
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer way.leave()
		conn, err := h.borrow(s)
		if err != nil {
			done <- result{err: err}
			return
		}
		if err := ctx.Err(); err != nil { // nobody waits any more: what has not begun does not
			h.giveBack(s, conn)
			done <- result{err: err}
			return
		}
		start := time.Now()
		v, err := f(conn)
		h.metrics.observeCall(name, start)
		h.giveBack(s, conn)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-s.lost:
		return none, fmt.Errorf("%w: connection lost", ErrUnavailable)
	case <-ctx.Done():
		return none, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// do is call for what has no result; it wraps the error.
func (h *Host) do(ctx context.Context, name string, what string, way lane, f func(*libvirt.Connect) error) error {
	_, err := call(ctx, h, name, way, func(c *libvirt.Connect) (struct{}, error) { return struct{}{}, f(c) })
	return wrap(what, err)
}

// changePoll is how often a change looks whether an earlier one has ended.
const changePoll = 50 * time.Millisecond

// change is do for what changes a domain's devices or makes it run. A call that nobody waits for any more runs on, and
// libvirt may carry it out much later: a disk must not be plugged into a domain that was taken back to its clean point
// meanwhile. So there is one at a time per domain; the next one waits for it until ctx ends, which gives ErrBusy.
// What makes a domain stop does not wait.
func (h *Host) change(ctx context.Context, name, what string, id ID, f func(*libvirt.Connect) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.opt.CallTimeout)
		defer cancel()
	}
	for {
		err := h.do(ctx, name, what, h.lanes.slow, func(c *libvirt.Connect) error {
			done, err := h.oneAtATime(asked{id, "change"})
			if err != nil {
				return err
			}
			defer done()
			return f(c)
		})
		if !errors.Is(err, errAsked) || !pause(ctx, changePoll) {
			return err
		}
	}
}

// lookup finds a domain that carries our metadata. A stranger is not found: nothing here touches one, even
// when it has the right UUID. The caller frees it.
func lookup(c *libvirt.Connect, id ID) (*libvirt.Domain, identity, error) {
	if !isUUID(string(id)) {
		return nil, identity{}, fmt.Errorf("%w: id %q is not a lower-case UUID", ErrInvalid, cut(string(id)))
	}
	d, err := c.LookupDomainByUUIDString(string(id))
	if err != nil {
		return nil, identity{}, err
	}
	who, err := identify(d)
	if err != nil {
		_ = d.Free()
		return nil, identity{}, err
	}
	return d, who, nil
}

// identify reads our metadata from the persistent definition: that is what the next start uses. A transient
// domain has none, and its live one counts.
func identify(d *libvirt.Domain) (identity, error) {
	doc, err := d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, metadataURI, libvirt.DOMAIN_AFFECT_CONFIG)
	if isCode(err, libvirt.ERR_OPERATION_INVALID) || isCode(err, libvirt.ERR_INVALID_ARG) {
		doc, err = d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, metadataURI, libvirt.DOMAIN_AFFECT_LIVE)
	}
	if err != nil {
		return identity{}, err
	}
	return parseIdentity(doc)
}

// ignore makes nil of an error of that class.
func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
