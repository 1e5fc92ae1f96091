package domain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
)

// request is one thing that a guest's agent may be asked, and for how long libvirt waits for the answer.
type request struct {
	command string
	seconds int
}

// These are all. libvirt itself sends guest-sync before each, and guest-shutdown for Shutdown. Whatever comes back is
// the guest's word: it is bounded, and decides nothing on the host.
var (
	askMounts = request{"guest-get-fsinfo", 5}
	askExec   = request{"guest-exec", 5}
	askStatus = request{"guest-exec-status", 5}
	askFreeze = request{"guest-fsfreeze-freeze", 20} // the guest writes everything back first
	askThaw   = request{"guest-fsfreeze-thaw", 10}
	askClock  = request{"guest-set-time", 10} // runs hwclock
)

const (
	// agentSlack is for what comes before libvirt's own wait: the turn in the lane, and guest-sync, which has 5 s.
	agentSlack = 8 * time.Second
	// maxAnswer bounds what is parsed of an answer. libvirt takes up to 10 MiB from a guest and sends on up to 4.
	maxAnswer = 256 << 10
)

// Freeze has the guest write its file systems back and stop writing, and says how many it froze. A guest that is
// destroyed while it is frozen has everything on its disks that it had written. What it answers is its own word.
// ErrUnresponsive: no agent, or no answer in 20 s. ErrRefused: it said no. ErrConflict: the domain does not run.
func (h *Host) Freeze(ctx context.Context, id ID) (int, error) {
	var n int
	err := h.agent(ctx, id, askFreeze, nil, &n)
	return max(n, 0), err
}

// Thaw lets the guest write again, and says how many file systems it thawed. Errors are as Freeze's.
func (h *Host) Thaw(ctx context.Context, id ID) (int, error) {
	var n int
	err := h.agent(ctx, id, askThaw, nil, &n)
	return max(n, 0), err
}

// SetClock sets the guest's clock, which stood still while its state was saved. Errors are as Freeze's; a guest
// without /sbin/hwclock refuses.
func (h *Host) SetClock(ctx context.Context, id ID, now time.Time) error {
	// libvirt's own call, for it also has QEMU drop the timer ticks that the guest missed.
	return h.askAgentFor(ctx, id, askClock, func(d *libvirt.Domain) error {
		if err := d.AgentSetResponseTimeout(askClock.seconds, 0); err != nil {
			return err
		}
		return d.SetTime(now.Unix(), uint(now.Nanosecond()), 0)
	})
}

// agent makes one request and parses its answer into result.
//
// The binding's own GetFSInfo is not used: it walks the list of a file system's disks, whose length the guest
// chooses, with the wrong stride, and reads past its end.
func (h *Host) agent(ctx context.Context, id ID, r request, args, result any) error {
	doc, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{r.command, args})
	if err != nil {
		return fmt.Errorf("domain: %s: %w", r.command, err)
	}
	answer := make(chan string, 1)
	err = h.askAgentFor(ctx, id, r, func(d *libvirt.Domain) error {
		text, err := d.QemuAgentCommand(string(doc), libvirt.DomainQemuAgentCommandTimeout(r.seconds), 0)
		if err == nil {
			answer <- text
		}
		return err
	})
	if err != nil {
		return err
	}
	return understood(id, r, <-answer, result)
}

// understood parses an answer. One that is too long or not what was asked for is no answer; its text stays out.
func understood(id ID, r request, text string, result any) error {
	if len(text) > maxAnswer {
		return fmt.Errorf("domain: %s of %s: %w: %d bytes, at most %d are read", r.command, id, ErrUnresponsive, len(text), maxAnswer)
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
	}
	if err := json.Unmarshal([]byte(text), &reply); err != nil || reply.Return == nil {
		return fmt.Errorf("domain: %s of %s: %w: the answer has no result", r.command, id, ErrUnresponsive)
	}
	if err := json.Unmarshal(reply.Return, result); err != nil {
		return fmt.Errorf("domain: %s of %s: %w: the result is not what was asked for", r.command, id, ErrUnresponsive)
	}
	return nil
}

// askAgentFor runs one request in the guests' lane. While an earlier one of this domain is not answered there is no
// second. The context of the caller counts, but no request takes longer than its own limit.
func (h *Host) askAgentFor(ctx context.Context, id ID, r request, f func(*libvirt.Domain) error) error {
	limited, cancel := context.WithTimeout(ctx, time.Duration(r.seconds)*time.Second+agentSlack)
	defer cancel()
	_, err := call(limited, h, "agent", h.lanes.guest, func(c *libvirt.Connect) (struct{}, error) {
		done, err := h.oneAtATime(asked{id, "agent"})
		if err != nil {
			return struct{}{}, err
		}
		defer done()
		d, _, err := lookup(c, id)
		if err != nil {
			return struct{}{}, err
		}
		defer d.Free()
		if active, err := d.IsActive(); err != nil {
			return struct{}{}, err
		} else if !active {
			return struct{}{}, errOff
		}
		return struct{}{}, f(d)
	})
	if err == nil {
		return nil
	}
	what := r.command + " of " + string(id)
	if ctx.Err() != nil {
		return wrap(what, err) // the caller went away, or had less time
	}
	if sentinel := h.agentClass(err); sentinel != nil {
		// The text may be the guest's: it is quoted and cut, and the error that holds it raw is not passed on.
		return fmt.Errorf("domain: %s: %w: %s", what, sentinel, quoted(err))
	}
	return wrap(what, err)
}

// quoted is an error's text, printable and of bounded length.
func quoted(err error) string {
	const most = 200
	text := err.Error()
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strconv.QuoteToASCII(text)
}

// refusal is how libvirt begins to report an error that the agent itself answered with; it has no code for that.
const refusal = "unable to execute QEMU agent command"

// agentClass tells what a guest did, or left undone, from what libvirt or the caller did: nil for the latter.
func (h *Host) agentClass(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errAsked) {
		return ErrUnresponsive
	}
	lv, ok := errors.AsType[libvirt.Error](err)
	if !ok {
		return nil
	}
	switch c := class(err); {
	case lv.Code == libvirt.ERR_RPC && h.Connected() == nil:
		return ErrUnresponsive // an answer too long for libvirt's protocol
	case lv.Code == libvirt.ERR_OPERATION_TIMEOUT:
		return ErrUnresponsive // the agent was busy for 30 s
	case lv.Code == libvirt.ERR_INTERNAL_ERROR && strings.Contains(lv.Message, refusal):
		return ErrRefused
	case c == nil:
		return ErrUnresponsive // what it sent makes no sense to libvirt, or is too much
	case c == ErrUnresponsive || c == ErrRefused:
		return c
	}
	return nil
}
