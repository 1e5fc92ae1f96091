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

// lanes bound how many calls are under way at once.
//
// libvirtd serves max_client_requests (5 unless configured) of a connection at a time, and while that many are
// under way it reads nothing more from it, keepalive answers included: a fifth slow call would cost the
// connection. So four in all; two of them at most for calls that may take long (a start, a destroy, a
// definition), and one for a guest's agent, whose answer is up to the guest. One is always left for looking.
type lanes struct {
	all     lane
	slow    lane
	agent   lane
	network lane // one change to the network at a time: read, compare, update
}

func newLanes() lanes {
	return lanes{all: make(lane, 4), slow: make(lane, 2), agent: make(lane, 1), network: make(lane, 1)}
}

// The ways to take for each kind of call, always in this order.
func (l lanes) forQuick() []lane   { return []lane{l.all} }
func (l lanes) forSlow() []lane    { return []lane{l.slow, l.all} }
func (l lanes) forAgent() []lane   { return []lane{l.agent, l.all} }
func (l lanes) forNetwork() []lane { return []lane{l.network, l.slow, l.all} }

// call runs f with the connection and waits for it until ctx ends, or for Options.CallTimeout when ctx has no
// deadline. A cgo call cannot be interrupted: when the wait ends first, f runs on, its result is thrown away,
// and it keeps its lanes until it returns. So f must share nothing with its caller but arguments and result.
// name is one of a few constants: it becomes a metric's label.
func call[T any](ctx context.Context, h *Host, name string, ways []lane, f func(*libvirt.Connect) (T, error)) (T, error) {
	var none T
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.opt.CallTimeout)
		defer cancel()
	}
	for i, l := range ways {
		if err := l.enter(ctx); err != nil {
			leave(ways[:i])
			return none, fmt.Errorf("waiting for a turn: %w", err)
		}
	}
	conn, err := h.borrow()
	if err != nil {
		leave(ways)
		return none, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer leave(ways)
		defer conn.Close()
		defer h.metrics.observeCall(name, time.Now())
		v, err := f(conn)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

func leave(ways []lane) {
	for _, l := range ways {
		l.leave()
	}
}

// do is call for what has no result; it wraps the error.
func (h *Host) do(ctx context.Context, name string, what string, ways []lane, f func(*libvirt.Connect) error) error {
	_, err := call(ctx, h, name, ways, func(c *libvirt.Connect) (struct{}, error) { return struct{}{}, f(c) })
	return wrap(what, err)
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
