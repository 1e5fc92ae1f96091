package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// openNetlink opens a socket that speaks a protocol of netlink(7), and waits for an answer no longer than a command may
// take.
func openNetlink(protocol int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(commandTime.Seconds())}))
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// receive hands messages of the kernel on a netlink socket to f until it is done.
func receive(fd int, f func(m unix.NlMsghdr, body []byte) (done bool, err error)) error {
	buf := make([]byte, 1<<16)
	for {
		size, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: receive: %w: %w", ErrUnavailable, err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // of another process, which may claim anything
		}
		for rest := buf[:size]; len(rest) >= unix.SizeofNlMsghdr; {
			m := unix.NlMsghdr{
				Len:  binary.NativeEndian.Uint32(rest),
				Type: binary.NativeEndian.Uint16(rest[4:]),
				Seq:  binary.NativeEndian.Uint32(rest[8:]),
			}
			if m.Len < unix.SizeofNlMsghdr || int(m.Len) > len(rest) {
				return fmt.Errorf("netlink: receive: %w: a message of %d bytes", ErrUnavailable, m.Len)
			}
			if done, err := f(m, rest[unix.SizeofNlMsghdr:m.Len]); done || err != nil {
				return err
			}
			rest = rest[min((int(m.Len)+3)&^3, len(rest)):]
		}
	}
}

// attributes are those in a message, or in another attribute, by their kind.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// attribute is one netlink attribute with its padding.
func attribute(kind uint16, payload ...[]byte) []byte {
	b := make([]byte, 4)
	for _, p := range payload {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
