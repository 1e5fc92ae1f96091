package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
)

// TestResolve: a resolver that fails is tried again until the daemon stops, and a cause is told once.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := &house{log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		causes := []error{errors.New("port taken"), errors.New("port taken"), errors.New("no memory"), nil}
		calls := 0
		h.resolve(ctx, func(ctx context.Context) error {
			calls++
			if calls <= len(causes) {
				return causes[calls-1]
			}
			cancel()
			<-ctx.Done()
			return nil
		})
		if calls != len(causes)+1 {
			t.Errorf("served %d times", calls)
		}
		for cause, want := range map[string]int{"port taken": 1, "no memory": 1, "level=": 2} {
			if n := strings.Count(log.String(), cause); n != want {
				t.Errorf("%q stands %d times, want %d:\n%s", cause, n, want, log.String())
			}
		}
	})
}
