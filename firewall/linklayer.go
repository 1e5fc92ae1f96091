package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// linkLayer is the third layer: the tap of a binding that nothing may pass, or of nobody, is down, so that it stays
// closed when all rules are gone. It has a lock of its own, which nobody holds for longer than the kernel takes to
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
	i, err := l.of(tap)
	if err == nil && i.state == LinkUp {
		err = l.set(i, LinkDown)
		i.state = LinkDown
	}
	if err != nil {
		return i.state, fmt.Errorf("link of %s not taken down: %w", tap, err)
	}
	return i.state, nil
}

// lowerOthers takes down every tap that is up and should not be. It is for who holds the lock of the rules, as raise is.
func (l *linkLayer) lowerOthers(up func(tap string) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := l.taps()
	for tap, i := range all {
		if i.state != LinkUp || up(tap) {
			continue
		}
		if e := l.set(i, LinkDown); e != nil {
			err = errors.Join(err, fmt.Errorf("link of %s not taken down: %w", tap, e))
		}
	}
	return err
}

// raise takes those taps up that are there and down, but for those that a call younger than number wants down.
func (l *linkLayer) raise(number uint64, taps ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var faults []error
	for _, tap := range taps {
		if l.shut[tap] > number {
			continue
		}
		delete(l.shut, tap)
		i, err := l.of(tap)
		if err == nil && i.state == LinkDown {
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
func (w wanted) linkDifference(tap string, now Link) string {
	should := w.up(tap)
	switch _, bound := w.bindings[tap]; {
	case now == LinkUp && !bound:
		return tap + ": link up, should be down: the tap belongs to nobody"
	case now == LinkUp && !should:
		return tap + ": link up, should be down: nothing may pass"
	case now == LinkDown && should:
		return tap + ": link down, should be up"
	}
	return ""
}

// wrongLinks says in words which links are not as they should be.
func (c *Chains) wrongLinks() ([]string, error) {
	all, err := c.links.taps()
	var diffs []string
	for _, tap := range slices.Sorted(maps.Keys(all)) {
		if d := c.want.linkDifference(tap, all[tap].state); d != "" {
			diffs = append(diffs, d)
		}
	}
	return diffs, err
}

// guardLink takes a tap down that somebody took up and that has to be down, as libvirt does with every one that it
// makes. It asks what was wanted last, and waits for no change.
func (c *Chains) guardLink(ctx context.Context, i linkInfo) {
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	if v := c.seen.Load(); i.state != LinkUp || !v.applied || v.up(i.name) {
		return
	}
	now, err := c.links.of(i.name) // it may be down again by now
	if err == nil && now.state == LinkUp {
		if err = c.links.set(now, LinkDown); err == nil {
			c.opt.Log.LogAttrs(ctx, slog.LevelInfo, "link taken down: nothing may pass", slog.String("tap", i.name))
		}
	}
	if err != nil {
		c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "link not taken down", slog.String("tap", i.name), slog.Any("error", err))
	}
}
