package domain

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// askAgain is how often a guest is asked once more: one that is still booting has nobody yet who hears the
// power button.
const askAgain = 3 * time.Second

// Shutdown asks the guest to power off and waits, by event, until the process is gone or grace is over, which
// gives ErrStillRunning. A guest agent that is connected is asked first; whatever it says, and when there is
// none, the ACPI power button is pressed every few seconds. A domain that is off is fine; one that is paused
// cannot hear, and gives ErrStillRunning at once. ErrNotFound: not defined, or not ours.
func (h *Host) Shutdown(ctx context.Context, id ID, grace time.Duration) error {
	what := "shut down " + string(id)
	changed, done := h.watchers.watch(id)
	defer done()
	if gone, err := h.gone(ctx, id); gone || err != nil {
		return wrap(what, err)
	}
	patience, cancel := context.WithTimeoutCause(ctx, grace, ErrStillRunning)
	defer cancel()
	agent := h.askAgent(patience, id)
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		ask := false
		select {
		case <-changed:
		case err := <-agent:
			agent, ask = nil, err != nil
		case <-again.C:
			ask = true
		case <-patience.Done():
			// One last look, unless it was the caller whose patience ended.
			if gone, err := h.gone(ctx, id); gone || err != nil {
				return wrap(what, err)
			}
			return wrap(what, context.Cause(patience))
		}
		gone, err := h.gone(patience, id)
		switch {
		case gone:
			return nil
		case errors.Is(err, ErrUnavailable):
			continue // unknown is not gone: the reconnect will wake us
		case err != nil:
			return wrap(what, err)
		}
		if ask {
			h.pressPowerButton(patience, id)
		}
	}
}

// gone reports whether the domain is off. One that is paused cannot hear what it is asked.
func (h *Host) gone(ctx context.Context, id ID) (bool, error) {
	o, err := h.ObserveOne(ctx, id)
	if err == nil && o.State == Paused {
		err = fmt.Errorf("%w: it is paused", ErrStillRunning)
	}
	return o.State == Off && err == nil, err
}

// pressPowerButton needs no error: a domain that went off in the meantime, or a libvirtd that did, shows at the
// next look, and the button is pressed again.
func (h *Host) pressPowerButton(ctx context.Context, id ID) {
	if err := h.ask(ctx, "shutdown", id, libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN); err != nil {
		h.log.LogAttrs(ctx, slog.LevelDebug, "power button", slog.String("domain", string(id)), slog.Any("error", err))
	}
}

// ask makes one kind of request to a guest. While an earlier one hangs, in the guest or in its QEMU, there is
// no second: a domain that does not answer takes one place in the lane, not all.
func (h *Host) ask(ctx context.Context, name string, id ID, how libvirt.DomainShutdownFlags) error {
	return h.do(ctx, name, "ask "+string(id), h.lanes.guest, func(c *libvirt.Connect) error {
		done, err := h.oneAtATime(asked{id, name})
		if err != nil {
			return err
		}
		defer done()
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		return d.ShutdownFlags(how)
	})
}

// asked is a request that is under way.
type asked struct {
	id   ID
	name string
}

// oneAtATime refuses a request while the same one is under way, and gives a function that ends it.
func (h *Host) oneAtATime(a asked) (func(), error) {
	if _, there := h.asking.LoadOrStore(a, struct{}{}); there {
		return nil, errAsked
	}
	return func() { h.asking.Delete(a) }, nil
}

var errAsked = fmt.Errorf("%w: an earlier request is not answered yet", ErrBusy)

var errNoAgent = errors.New("no guest agent connected")

// askAgent asks the guest's agent to shut down, beside the caller's wait: the agent is the guest's, may never
// answer, and libvirt waits a minute for it. The channel gets nil when it answered, or why it did not.
func (h *Host) askAgent(ctx context.Context, id ID) <-chan error {
	answer := make(chan error, 1)
	go func() {
		connected, err := h.agentConnected(ctx, id)
		if err == nil && !connected {
			err = errNoAgent
		}
		if err == nil {
			err = h.ask(ctx, "shutdown_agent", id, libvirt.DOMAIN_SHUTDOWN_GUEST_AGENT)
		}
		if err != nil && ctx.Err() == nil {
			h.log.LogAttrs(ctx, slog.LevelDebug, "guest agent not used", slog.String("domain", string(id)), slog.Any("error", err))
		}
		answer <- err
	}()
	return answer
}

func (h *Host) agentConnected(ctx context.Context, id ID) (bool, error) {
	return call(ctx, h, "describe", h.lanes.quick, func(c *libvirt.Connect) (bool, error) {
		d, _, err := lookup(c, id)
		if err != nil {
			return false, err
		}
		defer d.Free()
		doc, err := d.GetXMLDesc(0)
		if err != nil {
			return false, err
		}
		var x libvirtxml.Domain
		if err := xml.Unmarshal([]byte(doc), &x); err != nil || x.Devices == nil {
			return false, err
		}
		for _, ch := range x.Devices.Channels {
			if ch.Target != nil && ch.Target.VirtIO != nil && ch.Target.VirtIO.Name == agentChannel {
				return ch.Target.VirtIO.State == "connected", nil
			}
		}
		return false, nil
	})
}
