package domain

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"libvirt.org/go/libvirt"
)

// A connection that is silent for keepaliveSeconds x keepaliveCount is dead: a libvirtd that hangs is found out
// as one that was killed is, only later.
const (
	keepaliveSeconds = 5
	keepaliveCount   = 3
)

// Back-off between attempts to connect. It starts anew after a connection that lasted.
const (
	backoffMin    = 100 * time.Millisecond
	backoffMax    = 3 * time.Second
	lastedAtLeast = 10 * time.Second
)

// session is the time from one successful connect to the loss of that connection. The connection itself is for
// events alone; calls have others, which come and go with it: see pool.go.
type session struct {
	conn      *libvirt.Connect
	version   string
	callbacks []int
	lost      chan struct{} // closed by the close callback

	idle []*libvirt.Connect // connections without a call; guarded by Host.mu
}

// eventLoop starts libvirt's default event loop, which is one per process and cannot be stopped. It must run
// before the first connection is opened, or the connection would have no keepalive and no events.
var eventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go func() {
		for {
			if err := libvirt.EventRunDefaultImpl(); err != nil {
				time.Sleep(backoffMin) // poll(2) itself does not work: keep it from taking a CPU
			}
		}
	}()
	return nil
})

func startEventLoop() error { return eventLoop() }

// connectForever keeps a session up until ctx ends.
func (h *Host) connectForever(ctx context.Context) {
	wait := backoffMin
	for first := true; ctx.Err() == nil; {
		s, err := h.open(ctx)
		if err != nil {
			h.withdraw(ctx, err)
			if !pause(ctx, jitter(wait)) {
				break
			}
			wait = min(2*wait, backoffMax)
			continue
		}
		h.publish(ctx, s, first)
		first = false
		since := time.Now()
		select {
		case <-s.lost:
			h.withdraw(ctx, fmt.Errorf("connection lost"))
		case <-ctx.Done():
		}
		if time.Since(since) > lastedAtLeast {
			wait = backoffMin
		}
		if ctx.Err() != nil {
			h.withdraw(ctx, errClosed)
		}
		s.close()
		pause(ctx, jitter(wait))
	}
	h.withdraw(ctx, errClosed)
}

// open makes a session. The call into libvirt cannot be interrupted and has no keepalive yet, so it runs by
// itself: when ctx ends first, what it still opens is closed again.
func (h *Host) open(ctx context.Context) (*session, error) {
	type result struct {
		s   *session
		err error
	}
	done := make(chan result)
	go func() {
		s, err := h.dial()
		select {
		case done <- result{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.close()
			}
		}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, errClosed
	}
}

func (h *Host) dial() (*session, error) {
	defer h.metrics.observeCall("connect", time.Now())
	conn, err := libvirt.NewConnect(h.opt.URI)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, lost: make(chan struct{})}
	if err := h.prepare(s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare sets up what a session needs before anybody uses it: the callbacks stand before the first look at
// the domains, so that no change falls between the two.
func (h *Host) prepare(s *session) error {
	var once sync.Once
	if err := s.conn.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) {
		once.Do(func() { close(s.lost) })
	}); err != nil {
		return err
	}
	if err := s.conn.SetKeepAlive(keepaliveSeconds, keepaliveCount); err != nil {
		return err
	}
	if err := h.subscribe(s); err != nil {
		return err
	}
	lib, err := s.conn.GetLibVersion()
	if err != nil {
		return err
	}
	qemu, err := s.conn.GetVersion()
	if err != nil {
		return err
	}
	s.version = fmt.Sprintf("libvirt %s, QEMU %s", dotted(lib), dotted(qemu))
	return nil
}

// close gives everything back. On a dead connection the calls fail after their local half is done, which is
// the half that matters.
func (s *session) close() {
	for _, id := range s.callbacks {
		_ = s.conn.DomainEventDeregister(id)
	}
	_ = s.conn.UnregisterCloseCallback()
	_, _ = s.conn.Close()
}

// publish lets calls use s, and tells everybody that whatever they knew may be old.
func (h *Host) publish(ctx context.Context, s *session, first bool) {
	h.mu.Lock()
	h.session, h.reason = s, nil
	h.mu.Unlock()
	h.metrics.setConnected(true, !first)
	h.changed("")
	h.log.LogAttrs(ctx, slog.LevelInfo, "libvirt connected", slog.String("uri", h.opt.URI),
		slog.String("version", s.version), slog.String("virt_type", h.virtType))
}

// withdraw takes the session away and remembers why. The same reason twice is logged once.
func (h *Host) withdraw(ctx context.Context, cause error) {
	h.mu.Lock()
	before, old := h.reason, h.session
	h.session, h.reason = nil, wrap("connect", fmt.Errorf("%w: %w", ErrUnavailable, cause))
	news := before == nil || before.Error() != h.reason.Error()
	h.mu.Unlock()
	if old != nil {
		// Closing says good-bye to a libvirtd that may hang: nobody waits for it.
		go closeAll(old.idle)
	}
	h.metrics.setConnected(false, false)
	h.metrics.publish([]prometheus.Metric{up(0)})
	if news && ctx.Err() == nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "libvirt not connected, trying again",
			slog.String("uri", h.opt.URI), slog.Any("error", cause))
	}
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter spreads d over d/2 to d, so that the daemons of a rack do not come all at once.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// dotted renders libvirt's version numbers (major*1,000,000 + minor*1,000 + release).
func dotted(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}
