package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// linkLayer is the third layer: the tap of a binding that nothing may pass, or of nobody, is down, so that it stays
// closed when all rules are gone; so is one that is not on our bridge, where not all rules are. Those on it are isolated,
// so that no frame passes from one to another. It has a lock of its own, which nobody holds for longer than the kernel takes to
// change a link: what has to be down is, while a change of rules is under way that may take long.
type linkLayer struct {
	*links

	mu     sync.Mutex        // guards all below, and the links against ourselves
	number uint64            // of the newest call
	shut   map[string]uint64 // tap -> the newest call that wants it down: no older one takes it up
}

// call gives a call its number.
func (l *linkLayer) call() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	return l.number
}

// lower takes one tap down, and says what there is then. No tap is no error: libvirt makes it.
func (l *linkLayer) lower(tap string) (Link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	l.shut[tap] = l.number
	i, err := l.named(tap)
	if err == nil && i.state == LinkUp {
		err = l.set(i, LinkDown)
		i.state = LinkDown
	}
	if err != nil {
		return i.state, fmt.Errorf("link of %s not taken down: %w", tap, err)
	}
	return i.state, nil
}

// lowerOthers takes down every tap that is up and should not be, and isolates those that are not. It is for who holds the
// lock of the rules, as raise is.
func (l *linkLayer) lowerOthers(up func(tap string) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := l.taps()
	for tap, i := range all {
		_, e := l.tighten(i, up(tap))
		err = errors.Join(err, e)
	}
	return err
}

// tighten isolates the port of a tap, takes its link down if nothing may pass or if it is no isolated port of our bridge,
// and says how it is then.
func (l *linkLayer) tighten(i linkInfo, up bool) (_ linkInfo, err error) {
	if i.port == OpenPort {
		if err = l.isolate(i); err != nil {
			err = fmt.Errorf("port of %s not isolated: %w", i.name, err)
		} else {
			i.port = IsolatedPort
		}
	}
	if i.state == LinkUp && !(up && i.port == IsolatedPort) {
		if e := l.set(i, LinkDown); e != nil {
			return i, errors.Join(err, fmt.Errorf("link of %s not taken down: %w", i.name, e))
		}
		i.state = LinkDown
	}
	return i, err
}

// raise takes those taps up that are there and down, but for those that a call younger than number wants down, and those
// that are not on our bridge, which it takes down: Evidence tells of them.
func (l *linkLayer) raise(number uint64, taps ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	bridge, err := l.named(l.bridge)
	if err != nil {
		return err
	}
	var faults []error
	for _, tap := range taps {
		if l.shut[tap] > number {
			continue
		}
		delete(l.shut, tap)
		i, err := l.named(tap)
		if i.port = i.on(bridge.index); err == nil {
			i, err = l.tighten(i, true)
		}
		if err == nil && i.state == LinkDown && i.port == IsolatedPort {
			err = l.set(i, LinkUp)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("link of %s not taken up: %w", tap, err))
		}
	}
	return errors.Join(faults...)
}

// forget is for a tap that has gone.
func (l *linkLayer) forget(tap string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.shut, tap)
}

// up says whether the link of a tap is to be up: something may pass. Those of nobody are to be down.
func (w wanted) up(tap string) bool {
	b, bound := w.bindings[tap]
	if !bound || b.Policy == Closed {
		return false
	}
	p, loaded := w.policies[b.Policy]
	return loaded && !nothing(p.Policy)
}

// ups are the taps whose link is to be up.
func (w wanted) ups() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.bindings)), func(tap string) bool { return !w.up(tap) })
}

// linkDifference says in words how a tap's link differs from what it should be; "" if it does not.
func (w wanted) linkDifference(tap string, now linkInfo) string {
	should := w.up(tap)
	switch _, bound := w.bindings[tap]; {
	case now.state == LinkUp && !bound:
		return tap + ": link up, should be down: the tap belongs to nobody"
	case now.state == LinkUp && !should:
		return tap + ": link up, should be down: nothing may pass"
	case now.state == LinkUp && !now.placed():
		return tap + ": link up, should be down: it is not on the bridge"
	case now.state == LinkDown && should && now.placed():
		return tap + ": link down, should be up"
	}
	return ""
}

// portDifference says in words how the port of a tap, somebody's or nobody's, differs from what it should be; "" if it
// does not.
func portDifference(tap, bridge string, now linkInfo) string {
	switch {
	case now.state == NoLink:
	case now.port == OpenPort:
		return tap + ": port not isolated, should be"
	case now.port == OtherPort:
		return tap + ": a port of another bridge, should be one of " + bridge
	case now.port == NoPort:
		return tap + ": on no bridge, should be on " + bridge
	}
	return ""
}

// wrongLinks says in words which links and ports are not as they should be, of what can be mended: a tap that is not on
// the bridge is not, and is down.
func (c *Chains) wrongLinks(ctx context.Context) ([]string, error) {
	diffs, beginning, err := c.lookAtLinks()
	if beginning {
		select {
		case <-ctx.Done():
		case <-time.After(quiet):
		}
		diffs, _, err = c.lookAtLinks()
	}
	return diffs, err
}

// lookAtLinks also says whether one that is wrong may be in the making: libvirt puts a tap on the bridge, isolates it a
// moment later, and then takes it up.
func (c *Chains) lookAtLinks() (diffs []string, beginning bool, err error) {
	all, err := c.links.taps()
	for _, tap := range slices.Sorted(maps.Keys(all)) {
		i := all[tap]
		for _, d := range []string{c.want.linkDifference(tap, i), portDifference(tap, c.opt.Bridge, i)} {
			if d != "" && (i.state == LinkUp || i.placed()) {
				diffs, beginning = append(diffs, d), beginning || i.state == LinkDown
			}
		}
	}
	return diffs, beginning, err
}

// guardLink takes a tap down that somebody took up and that has to be down, as libvirt does with every one that it
// makes, or that somebody took from the bridge. It asks what was wanted last, and waits for no change.
func (c *Chains) guardLink(ctx context.Context, i linkInfo) {
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	v := c.seen.Load()
	if i.state != LinkUp || !v.applied {
		return
	}
	now, err := c.links.of(i.name) // it may be down again by now
	if err == nil && now.state == LinkUp && !(v.up(i.name) && now.placed()) {
		if err = c.links.set(now, LinkDown); err == nil {
			why := "nothing may pass"
			if v.up(i.name) {
				why = "it is not on the bridge"
			}
			c.opt.Log.LogAttrs(ctx, slog.LevelInfo, "link taken down", slog.String("tap", i.name), slog.String("why", why))
		}
	}
	if err != nil {
		c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "link not taken down", slog.String("tap", i.name), slog.Any("error", err))
	}
}
