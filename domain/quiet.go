package domain

import (
	"context"

	"libvirt.org/go/libvirt"
)

// Quiet says whether a domain's guest may put numbers of its choice into the metrics: the balloon's, which tell its
// memory use. While a domain is quiet its guest is not asked for them, and none are exported. It is idempotent, and
// holds for a domain that is off, and for its next process, until it is called again; a new Host knows of quiet domains
// by the processes that are not asked. An error means that the guest may still be asked; nothing is exported in any case.
func (h *Host) Quiet(ctx context.Context, id ID, quiet bool) error {
	h.metrics.setQuiet(id, quiet)
	period := balloonPeriod
	if quiet {
		period = 0
	}
	return h.do(ctx, "quiet", "quiet "+string(id), h.lanes.slow, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		if active, err := d.IsActive(); err != nil || !active {
			return err
		}
		defer h.metrics.forget(id) // no event tells of it
		return d.SetMemoryStatsPeriod(period, libvirt.DOMAIN_MEM_LIVE)
	})
}

// setQuiet remembers it for the collections that begin from now on.
func (m *metrics) setQuiet(id ID, quiet bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if quiet {
		m.quiet[id] = true
	} else {
		delete(m.quiet, id)
	}
}

func (m *metrics) isQuiet(id ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.quiet[id]
}
