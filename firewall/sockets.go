package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The states of TCP sockets that are some connection's (include/net/tcp_states.h): all but those that listen, that
// are closed, and that only wait for late segments.
const connected = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 | 1<<12

// disconnectRounds bounds how often is looked again for connections that came meanwhile.
const disconnectRounds = 10

// Disconnect ends the TCP connections to these ports of the host, as their far side sees a reset, and says how many
// there were. It is for programs that cannot be asked. Who listens goes on listening, so a connection may come
// again the moment after; those that come while it works are ended too. ErrUnavailable if the kernel cannot
// (it must be built with CONFIG_INET_DIAG_DESTROY) or the process may not (CAP_NET_ADMIN).
func Disconnect(ctx context.Context, ports ...uint16) (int, error) {
	fd, err := openNetlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("firewall: disconnect: %w: %w", ErrUnavailable, err)
	}
	defer unix.Close(fd)
	d := &sockDiag{fd: fd}
	total := 0
	for range disconnectRounds {
		n, err := d.destroyAll(ctx, ports)
		total += n
		if err != nil {
			return total, fmt.Errorf("firewall: disconnect: %w", err)
		}
		if n == 0 {
			return total, nil
		}
	}
	return total, fmt.Errorf("firewall: disconnect: %w: connections come faster than they are ended", ErrUnavailable)
}

// sockDiag is a socket of sock_diag(7).
type sockDiag struct {
	fd  int
	seq uint32
}

// destroyAll ends the connections that are there now.
func (d *sockDiag) destroyAll(ctx context.Context, ports []uint16) (int, error) {
	n := 0
	for _, port := range ports {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			ids, err := d.list(family, port)
			if err != nil {
				return n, err
			}
			for _, id := range ids {
				if err := ctx.Err(); err != nil {
					return n, fmt.Errorf("%w: %w", ErrUnavailable, err)
				}
				gone, err := d.destroy(family, id)
				if err != nil {
					return n, fmt.Errorf("port %d: %w", port, err)
				}
				if gone {
					n++
				}
			}
		}
	}
	return n, nil
}

// socketID is struct inet_diag_sockid: ports, addresses, interface and cookie of one socket.
type socketID [48]byte

// request is struct inet_diag_req_v2 in a netlink message (sock_diag(7)).
func (d *sockDiag) request(kind, flags uint16, family byte, states uint32, id socketID) error {
	d.seq++
	b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+8+uint32(len(id)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, d.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	b = append(b, id[:]...)
	if err := unix.Sendto(d.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, os.NewSyscallError("sendto", err))
	}
	return nil
}

// list finds the connections whose port on this side is the one.
func (d *sockDiag) list(family byte, port uint16) ([]socketID, error) {
	var only socketID
	binary.BigEndian.PutUint16(only[:], port)
	if err := d.request(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, family, connected, only); err != nil {
		return nil, err
	}
	var ids []socketID
	err := receive(d.fd, func(m unix.NlMsghdr, body []byte) (done bool, err error) {
		switch {
		case m.Seq != d.seq:
			return false, nil
		case m.Type == unix.NLMSG_DONE:
			return true, nil
		case m.Type == unix.NLMSG_ERROR:
			return true, errnoOf(body)
		case len(body) >= 4+len(socketID{}): // struct inet_diag_msg: family, state, timer, retransmissions, the id
			id := socketID(body[4 : 4+len(socketID{})])
			if binary.BigEndian.Uint16(id[:]) == port { // the kernel was asked for no others
				ids = append(ids, id)
			}
		}
		return false, nil
	})
	return ids, err
}

// destroy ends one connection; false if it is gone already.
func (d *sockDiag) destroy(family byte, id socketID) (bool, error) {
	if err := d.request(unix.SOCK_DESTROY, unix.NLM_F_ACK, family, connected, id); err != nil {
		return false, err
	}
	err := receive(d.fd, func(m unix.NlMsghdr, body []byte) (bool, error) {
		if m.Seq != d.seq || m.Type != unix.NLMSG_ERROR {
			return false, nil
		}
		return true, errnoOf(body)
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, fmt.Errorf("the kernel cannot end connections of others (CONFIG_INET_DIAG_DESTROY is not set): %w", err)
	}
	return err == nil, err
}

// errnoOf reads the number at the head of an NLMSG_ERROR; 0 is no error.
func errnoOf(body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("%w: a message of %d bytes", ErrUnavailable, len(body))
	}
	if code := -int32(binary.NativeEndian.Uint32(body)); code != 0 {
		return fmt.Errorf("%w: %w", ErrUnavailable, unix.Errno(code))
	}
	return nil
}
