package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/daemon"
)

// peer is the process at the other end of a unix socket, as the kernel recorded it when it connected.
type peer struct {
	from     string // "unix:uid=N"
	admitted bool   // root, or a member of an administrators' group
	caller   daemon.Caller
	err      error // why its credentials could not be read; it is not admitted then
}

type peerKey struct{}

// peerOf returns the peer of a request that came over a unix socket, nil for one over TCP.
func peerOf(ctx context.Context) *peer {
	p, _ := ctx.Value(peerKey{}).(*peer)
	return p
}

// withPeer is the server's ConnContext: it asks for the credentials once for each connection.
func (s *Server) withPeer(ctx context.Context, conn net.Conn) context.Context {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, s.readPeer(c))
}

func (s *Server) readPeer(conn *net.UnixConn) *peer {
	p := &peer{from: "unix"}
	raw, err := conn.SyscallConn()
	if err != nil {
		p.err = err
		return p
	}
	var cred *unix.Ucred
	var groups []uint32
	err = raw.Control(func(fd uintptr) {
		cred, p.err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if p.err == nil && cred.Uid != 0 && len(s.groups) > 0 {
			groups, p.err = peerGroups(int(fd))
		}
	})
	if p.err = errors.Join(err, p.err); p.err != nil {
		return p
	}
	p.from = fmt.Sprintf("unix:uid=%d", cred.Uid)
	groups = append(groups, cred.Gid)
	p.admitted = cred.Uid == 0 || slices.ContainsFunc(groups, func(g uint32) bool { return slices.Contains(s.groups, g) })
	p.caller = daemon.Caller{GUID: localGUID(cred.Uid), Local: true, From: p.from}
	return p
}

// peerGroups returns the supplementary groups that the peer had when it connected: SO_PEERCRED has only its primary one.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == syscall.ERANGE && int(size) > len(groups)*4: // size now says how much there is
			groups = make([]uint32, size/4)
		case errno != 0:
			return nil, fmt.Errorf("api: groups of the peer: %w", errno)
		default:
			return groups[:size/4], nil
		}
	}
}

// localGUID names a local user so that no token can bear the same name (CheckGUID).
func localGUID(uid uint32) string {
	if uid == 0 {
		return "root"
	}
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil && guidPattern.MatchString(u.Username) && len(localPrefix+u.Username) <= 64 {
		return localPrefix + u.Username
	}
	return localPrefix + "uid-" + id
}
