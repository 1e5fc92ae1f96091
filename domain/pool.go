package domain

import (
	"libvirt.org/go/libvirt"
)

// A connection for calls carries one call at a time. Two reasons, both seen on libvirt 9.0:
//
// When keepalive gives up a connection, its client library fails one of the calls that wait on it and lets
// another one wait on, without a timeout, on a socket that it has begun to close; that one hangs until libvirtd
// comes back, or crashes the process. With one call there is no other.
//
// And libvirtd stops reading from a connection, keepalive answers included, while max_client_requests (5) of its
// calls are under way, so a few slow calls would cost everybody the connection.
//
// Connections are made when they are needed, kept while the session lasts, and no more of them exist than the
// lanes admit calls.

// current is the session, or why there is none.
func (h *Host) current() (*session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session == nil {
		return nil, h.reason
	}
	return h.session, nil
}

// borrow takes an idle connection of the session, or makes one. It may block as every call may.
func (h *Host) borrow(s *session) (*libvirt.Connect, error) {
	if conn := h.takeIdle(s); conn != nil {
		return conn, nil
	}
	conn, err := libvirt.NewConnect(h.opt.URI)
	if err != nil {
		return nil, err
	}
	if err := conn.SetKeepAlive(keepaliveSeconds, keepaliveCount); err != nil {
		_, _ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (h *Host) takeIdle(s *session) *libvirt.Connect {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session != s || len(s.idle) == 0 {
		return nil
	}
	last := len(s.idle) - 1
	conn := s.idle[last]
	s.idle = s.idle[:last]
	return conn
}

// giveBack keeps a connection for the next call, unless it is dead or its session over.
func (h *Host) giveBack(s *session, conn *libvirt.Connect) {
	alive, err := conn.IsAlive() // looks at the socket's state: no call is made
	if err == nil && alive && h.keep(s, conn) {
		return
	}
	_, _ = conn.Close()
}

func (h *Host) keep(s *session, conn *libvirt.Connect) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session != s {
		return false
	}
	s.idle = append(s.idle, conn)
	return true
}

func closeAll(conns []*libvirt.Connect) {
	for _, c := range conns {
		_, _ = c.Close()
	}
}
