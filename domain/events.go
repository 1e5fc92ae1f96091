package domain

import (
	"context"
	"sync"

	"libvirt.org/go/libvirt"
)

// maxPending is how many domains may wait in the queue before it says "everything" instead.
const maxPending = 4096

// eventQueue takes events from libvirt's event loop, which must never block, and hands them to one reader.
// It keeps each domain once: an event carries no state, so two that nobody has read say no more than one.
type eventQueue struct {
	out  chan Event
	wake chan struct{} // of capacity 1: something is pending

	mu      sync.Mutex // guards what follows
	pending map[ID]struct{}
	order   []ID
}

func newEventQueue() *eventQueue {
	return &eventQueue{out: make(chan Event), wake: make(chan struct{}, 1), pending: map[ID]struct{}{}}
}

// add queues id; "" stands for everything and swallows what is queued.
func (q *eventQueue) add(id ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, all := q.pending[""]; all {
		return
	}
	if _, there := q.pending[id]; there {
		return
	}
	if id == "" || len(q.order) >= maxPending {
		id = ""
		clear(q.pending)
		q.order = q.order[:0]
	}
	q.pending[id] = struct{}{}
	q.order = append(q.order, id)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest.
func (q *eventQueue) next() (ID, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return "", false
	}
	id := q.order[0]
	q.order = q.order[1:]
	delete(q.pending, id)
	return id, true
}

// pump hands events to the reader until ctx ends, then closes the channel.
func (q *eventQueue) pump(ctx context.Context) {
	defer close(q.out)
	for {
		id, ok := q.next()
		if !ok {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case q.out <- Event{ID: id}:
		case <-ctx.Done():
			return
		}
	}
}

// watchers are the methods of this package that wait for a domain to change.
type watchers struct {
	mu sync.Mutex // guards m
	m  map[ID]map[chan struct{}]struct{}
}

// watch gives a channel that holds a token whenever the domain may have changed since the last look, and a
// function that ends it. Watch first, look second: then no change is missed.
func (w *watchers) watch(id ID) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[ID]map[chan struct{}]struct{}{}
	}
	if w.m[id] == nil {
		w.m[id] = map[chan struct{}]struct{}{}
	}
	w.m[id][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.m[id], ch)
		if len(w.m[id]) == 0 {
			delete(w.m, id)
		}
	}
}

func (w *watchers) signal(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for of, set := range w.m {
		if id != "" && of != id {
			continue
		}
		for ch := range set {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// changed tells everybody that a domain, or with "" everything, may have changed.
func (h *Host) changed(id ID) {
	h.watchers.signal(id)
	h.metrics.forget(id)
	h.events.add(id)
}

// subscribe registers the callbacks. They run in libvirt's event loop and must make no call: the UUID is read
// from the handle, which the binding frees.
func (h *Host) subscribe(s *session) error {
	seen := func(d *libvirt.Domain) {
		if id, err := d.GetUUIDString(); err == nil {
			h.changed(ID(id))
		}
	}
	for _, register := range []func() (int, error){
		func() (int, error) {
			return s.conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventLifecycle) { seen(d) })
		},
		func() (int, error) {
			return s.conn.DomainEventRebootRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain) { seen(d) })
		},
		func() (int, error) {
			return s.conn.DomainEventIOErrorRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventIOError) { seen(d) })
		},
		func() (int, error) {
			return s.conn.DomainEventAgentLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventAgentLifecycle) { seen(d) })
		},
	} {
		id, err := register()
		if err != nil {
			return err
		}
		s.callbacks = append(s.callbacks, id)
	}
	return nil
}
