package api_test

import (
	"context"
	"slices"

	"github.com/capsuled/capsuled/daemon"
)

// The catalogue of metadata definitions has no dialect in this package: that its families reach the daemon is all that is
// seen here.

func (f *fakeDaemon) Metadefs(_ context.Context, c daemon.Caller, _ string) ([]daemon.Metadef, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers = append(f.callers, c)
	return slices.Clone(f.metadefs), f.fail
}

func (f *fakeDaemon) AddMetadef(_ context.Context, c daemon.Caller, m daemon.Metadef) error {
	return f.PutMetadef(context.Background(), c, m)
}

func (f *fakeDaemon) PutMetadef(_ context.Context, c daemon.Caller, m daemon.Metadef) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers = append(f.callers, c)
	f.metadefs = append(f.metadefs, m)
	return f.fail
}

func (f *fakeDaemon) DeleteMetadef(_ context.Context, c daemon.Caller, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers = append(f.callers, c)
	return f.fail
}
