package rig

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// beacons notes when packets with a mark arrive in the outside world, by the kernel's clock (socket(7),
// SO_TIMESTAMPNS). It hears every interface there.
type beacons struct {
	file *os.File
	done chan error

	mu    sync.Mutex
	heard []time.Time
}

// listen begins at once.
func listen(mark []byte) (*beacons, error) {
	fd, err := worldSocket()
	if err != nil {
		return nil, fmt.Errorf("rig: capture: %w", err)
	}
	b := &beacons{file: os.NewFile(uintptr(fd), "capture"), done: make(chan error, 1)}
	raw, err := b.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	go func() { b.done <- b.receive(raw, mark) }()
	return b, nil
}

// worldSocket hears everything in the outside world's namespace, to which a socket belongs from its birth on
// (network_namespaces(7)).
func worldSocket() (fd int, err error) {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: a thread in another namespace ends with its goroutine
		failed <- func() error {
			ns, err := os.Open("/run/netns/world")
			if err != nil {
				return err
			}
			defer func() { _ = ns.Close() }()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			every := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
			if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, every); err != nil {
				return err
			}
			return errors.Join(
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			)
		}()
	}()
	return fd, <-failed
}

// receive notes what it hears until the socket is closed.
func (b *beacons) receive(raw interface {
	Read(func(uintptr) bool) error
}, mark []byte) error {
	data, control := make([]byte, 1<<16), make([]byte, 256)
	for {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, c, _, from, err := unix.Recvmsg(int(fd), data, control, 0)
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			if err != nil {
				if !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.EINTR) {
					failed = err
				}
				return true
			}
			if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype != unix.PACKET_OUTGOING && bytes.Contains(data[:n], mark) {
				when, err := timestamp(control[:c])
				if err != nil {
					failed = err
					return true
				}
				b.mu.Lock()
				b.heard = append(b.heard, when)
				b.mu.Unlock()
			}
			return true
		})
		if failed != nil {
			return fmt.Errorf("rig: capture: %w", failed)
		}
		if err != nil { // closed
			return nil
		}
	}
}

// timestamp is when the kernel received a packet.
func timestamp(control []byte) (time.Time, error) {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range list {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			order := binary.NativeEndian
			return time.Unix(int64(order.Uint64(m.Data)), int64(order.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("a packet without a time")
}

// soFar is a copy of what was heard.
func (b *beacons) soFar() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.heard)
}

// close ends the capture and says what was heard.
func (b *beacons) close() ([]time.Time, error) {
	_ = b.file.Close()
	err := <-b.done
	return b.soFar(), err
}
