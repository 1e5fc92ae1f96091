package daemon

import (
	"context"
	"fmt"

	"github.com/capsuled/capsuled/firewall"
)

// lock is a mutex of the firewall that whoever waits for it gives up when his context ends. It has room for one.
type lock chan struct{}

func (l lock) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("daemon: %w: %w", firewall.ErrUnavailable, err)
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("daemon: %w: another change is under way: %w", firewall.ErrUnavailable, ctx.Err())
	}
}

func (l lock) release() { <-l }
