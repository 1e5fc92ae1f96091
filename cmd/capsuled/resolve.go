package main

import (
	"context"
	"log/slog"
	"time"
)

// resolverPause is how long after a failure the static resolver is tried again.
const resolverPause = 2 * time.Second

// resolve calls serve until ctx ends, however often that fails: without the static resolver the names that policies list are
// not answered, which closes something and opens nothing, so the daemon goes on. A cause is logged once.
func (h *house) resolve(ctx context.Context, serve func(context.Context) error) {
	for last := ""; ; {
		err := serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			h.log.LogAttrs(ctx, slog.LevelWarn, "static resolver does not answer, trying again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resolverPause):
		}
	}
}
