package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	questionMax     = 512  // bytes of a message over UDP without extensions (RFC 1035, section 2.3.4)
	answerMax       = 8192 // bytes of an answer over TCP
	questionRate    = 100  // a second, of one binding
	questionBurst   = 200
	streamsMax      = 64              // TCP connections at once
	streamsOfOneMax = 4               // of them, of one binding
	streamTime      = 5 * time.Second // that a TCP connection may take, all in all
)

// Resolver answers questions for names from what the policies list, for bindings whose policy has static DNS. It
// asks nobody: a question goes no further than this process, so that names carry nothing out. It answers at a port
// of the host's address on the bridge where only the rules of such policies lead (see staticPort).
//
// It is for few questions of few askers: a binding that asks more than 100 times a second is not answered, an answer
// by UDP never grows over 512 bytes, and a connection ends after five seconds.
type Resolver struct {
	chains *Chains
	log    *slog.Logger
	quota  quota
}

// NewResolver makes a resolver for the bindings of c. It opens nothing.
func NewResolver(c *Chains, log *slog.Logger) *Resolver {
	return &Resolver{chains: c, log: log, quota: quota{of: map[netip.Addr]*allowance{}}}
}

// Serve answers until ctx ends, and then returns nil. The bridge need not exist yet, and may come and go. It returns
// ErrUnavailable if the port is taken or a socket fails; it may be called again.
func (r *Resolver) Serve(ctx context.Context) error {
	// A socket may have an address that no interface has yet (ip(7), IP_FREEBIND).
	free := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var fault error
		err := raw.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, fault)
	}}
	address := netip.AddrPortFrom(r.chains.opt.gateway(), staticPort).String()
	packets, err := free.ListenPacket(ctx, "udp4", address)
	if err != nil {
		return fmt.Errorf("firewall: resolver: %w: %w", ErrUnavailable, err)
	}
	streams, err := free.Listen(ctx, "tcp4", address)
	if err != nil {
		return fmt.Errorf("firewall: resolver: %w: %w", ErrUnavailable, errors.Join(err, packets.Close()))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = errors.Join(packets.Close(), streams.Close()) })()
	r.log.LogAttrs(ctx, slog.LevelInfo, "static resolver answers", slog.String("address", address))
	var faults [2]error
	var wg sync.WaitGroup
	wg.Go(func() { defer cancel(); faults[0] = r.servePackets(ctx, packets.(*net.UDPConn)) })
	wg.Go(func() { defer cancel(); faults[1] = r.serveStreams(ctx, streams.(*net.TCPListener)) })
	wg.Wait()
	if err := errors.Join(faults[:]...); err != nil {
		return fmt.Errorf("firewall: resolver: %w: %w", ErrUnavailable, err)
	}
	return nil
}

// servePackets answers one datagram after the other; answering one takes microseconds.
func (r *Resolver) servePackets(ctx context.Context, conn *net.UDPConn) error {
	buf := make([]byte, questionMax+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, unix.ECONNREFUSED) { // an answer that nobody waited for
				continue
			}
			return err
		}
		if n > questionMax {
			r.count("malformed")
			continue
		}
		if answer := r.answer(buf[:n], from.Addr().Unmap(), questionMax); answer != nil {
			// That the rules refuse it, or the asker is gone, is the asker's loss.
			_, _ = conn.WriteToUDPAddrPort(answer, from)
		}
	}
}

// serveStreams answers TCP, each connection on its own, and few of them.
func (r *Resolver) serveStreams(ctx context.Context, l *net.TCPListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	open, total := map[netip.Addr]int{}, 0
	for {
		conn, err := l.AcceptTCP()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, unix.ECONNABORTED) {
				continue
			}
			return err
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		mu.Lock()
		full := total >= streamsMax || open[from] >= streamsOfOneMax
		if !full {
			total++
			open[from]++
		}
		mu.Unlock()
		if full {
			r.count("limited")
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			r.serveStream(conn, from)
			stop()
			_ = conn.Close()
			mu.Lock()
			defer mu.Unlock()
			total--
			if open[from]--; open[from] == 0 {
				delete(open, from)
			}
		})
	}
}

// serveStream answers the questions of one connection (RFC 1035, section 4.2.2), until its time is over.
func (r *Resolver) serveStream(conn *net.TCPConn, from netip.Addr) {
	if conn.SetDeadline(time.Now().Add(streamTime)) != nil {
		return
	}
	buf := make([]byte, 2+questionMax)
	for {
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > questionMax {
			r.count("malformed")
			return
		}
		if _, err := io.ReadFull(conn, buf[2:2+n]); err != nil {
			return
		}
		answer := r.answer(buf[2:2+n], from, answerMax)
		if answer == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (r *Resolver) count(result string) {
	r.chains.metrics.questions.WithLabelValues(result).Inc()
}

// quota bounds how often each address is answered: a bucket of tokens each.
type quota struct {
	mu sync.Mutex
	of map[netip.Addr]*allowance
}

type allowance struct {
	tokens float64
	at     time.Time
}

// take says whether an address may ask now. Addresses that have asked nothing for long are forgotten.
func (q *quota) take(a netip.Addr, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	one, ok := q.of[a]
	if !ok {
		for old, s := range q.of {
			if now.Sub(s.at) > time.Second*questionBurst/questionRate { // full again
				delete(q.of, old)
			}
		}
		one = &allowance{questionBurst, now}
		q.of[a] = one
	}
	one.tokens = min(questionBurst, one.tokens+now.Sub(one.at).Seconds()*questionRate)
	one.at = now
	if one.tokens < 1 {
		return false
	}
	one.tokens--
	return true
}
