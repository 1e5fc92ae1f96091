package firewall

import (
	"context"
	"fmt"
)

// lock is a mutex that whoever waits for it gives up when his context ends. It has room for one.
type lock chan struct{}

func (l lock) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: another change is under way: %w", ErrUnavailable, ctx.Err())
	}
}

func (l lock) release() { <-l }
