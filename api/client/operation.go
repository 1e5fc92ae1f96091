package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// OperationFilter narrows a list of operations; zero fields match everything.
type OperationFilter struct {
	Target string // id of a capsule or an image
	State  string // running, succeeded or failed
	Limit  int    // newest first; 0 leaves it to the daemon
}

// Operations lists operations, newest first.
func (c *Client) Operations(ctx context.Context, f OperationFilter) (wire.OperationList, error) {
	query := url.Values{}
	for name, value := range map[string]string{"target": f.Target, "state": f.State, "limit": number(f.Limit)} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var list wire.OperationList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/operations", query: query, out: &list})
	return list, err
}

// Operation describes one operation. With wait over 0 (whole seconds, at most 60) the daemon answers when the
// operation ends, or after that time with its state then.
func (c *Client) Operation(ctx context.Context, id string, wait time.Duration) (wire.Operation, error) {
	var op wire.Operation
	if err := checkID("an operation", id); err != nil {
		return op, err
	}
	query := url.Values{}
	if seconds := int(wait / time.Second); seconds > 0 {
		query.Set("wait", strconv.Itoa(seconds))
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/operations/" + id, query: query, wait: wait, out: &op})
	return op, err
}

// Running is the State of an operation that has not ended.
const Running = "running"

// Bounds of Wait.
const (
	pollWait = time.Second            // a long poll answers only at the end, so this is also how old a step can be
	pollGap  = 100 * time.Millisecond // between polls, should the other side not honour the wait
	patience = time.Minute            // how long the daemon may be away: it resumes operations when it starts again
	maxPause = 2 * time.Second        // between attempts while it is away
)

// Wait follows an operation until it has ended and returns its last state, which may be failed: that is no error of
// Wait. It calls each, if not nil, with every state it sees, the last one included. A daemon that goes away, as during
// its upgrade, is tried again for a minute; one that was away from the start is not. When ctx ends, Wait returns its
// error; the operation goes on regardless.
func (c *Client) Wait(ctx context.Context, id string, each func(wire.Operation)) (wire.Operation, error) {
	var wait time.Duration // the first poll returns at once, so that there is something to show
	seen := false
	var away time.Time // since when
	pause := pollGap
	for {
		op, err := c.Operation(ctx, id, wait)
		switch {
		case err == nil:
			if each != nil {
				each(op)
			}
			if op.State != Running {
				return op, nil
			}
			seen, away, pause, wait = true, time.Time{}, pollGap, pollWait
		case !seen || !passing(err) || !away.IsZero() && time.Since(away) > patience:
			return wire.Operation{}, err
		case away.IsZero():
			away = time.Now()
		default:
			pause = min(2*pause, maxPause)
		}
		if err := sleep(ctx, pause); err != nil {
			return wire.Operation{}, err
		}
	}
}

// passing reports whether err may go away by itself: the daemon restarts, or libvirt does.
func passing(err error) bool {
	if u, ok := errors.AsType[*Unreachable](err); ok {
		return !u.lasting
	}
	return Is(err, Unavailable)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
