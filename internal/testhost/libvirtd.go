package testhost

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	libvirtSocket = "/run/libvirt/libvirt-sock"
	libvirtdPid   = "/run/libvirtd.pid"
	virtlogdPid   = "/run/virtlogd.pid"
)

// libvirtDirs are those that the Debian package brings and a private directory lacks; QEMU's user owns qemu's.
var libvirtDirs = []struct {
	path string
	mode fs.FileMode
	qemu bool
}{
	{"/var/lib/libvirt/boot", 0o711, false},
	{"/var/lib/libvirt/images", 0o711, false},
	{"/var/lib/libvirt/dnsmasq", 0o755, false},
	{"/var/lib/libvirt/qemu", 0o750, true},
	{"/var/log/libvirt/qemu", 0o750, false},
	{"/var/cache/libvirt/qemu", 0o750, true},
}

// configureLibvirt prepares the private directories. noGroups says why there are no cgroups, if there are none.
func configureLibvirt(noGroups error) error {
	for _, d := range libvirtDirs {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if d.qemu {
			if err := giveToQEMU(d.path); err != nil {
				return err
			}
		}
	}
	// AppArmor's profiles would be loaded into the machine's kernel, for paths that mean something else there.
	qemu := "security_driver = \"none\"\n"
	if noGroups != nil {
		qemu += fmt.Sprintf("# %v\ncgroup_controllers = [ ]\n", noGroups)
	}
	// Two hosts on one machine would share its DMI UUID, and refuse to migrate to each other.
	host := fmt.Sprintf("host_uuid = %q\n", uuid.NewString())
	return errors.Join(appendFile("/etc/libvirt/qemu.conf", qemu), appendFile("/etc/libvirt/libvirtd.conf", host))
}

func giveToQEMU(path string) error {
	u, err := user.Lookup("libvirt-qemu")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n" + text)
	return errors.Join(err, f.Close())
}

func startLibvirt() error {
	if err := run(nil, "virtlogd", "-d", "-p", virtlogdPid); err != nil {
		return err
	}
	return startLibvirtd()
}

// startLibvirtd returns when libvirtd accepts connections: with -d its first process ends only when the sockets
// are open, and requests wait for the drivers from then on.
func startLibvirtd() error {
	if err := run(nil, "libvirtd", "-d", "-p", libvirtdPid); err != nil {
		return err
	}
	c, err := net.Dial("unix", libvirtSocket)
	if err != nil {
		return fmt.Errorf("libvirtd: %w", err)
	}
	return c.Close()
}

// StartLibvirtd starts the host's libvirtd and returns when it accepts connections. One that runs already is
// left alone.
func StartLibvirtd(t testing.TB) {
	t.Helper()
	if fd, err := openPid(libvirtdPid, "libvirtd"); err == nil {
		_ = unix.Close(fd)
		return
	}
	if err := startLibvirtd(); err != nil {
		t.Fatal("testhost:", err)
	}
}

// StopLibvirtd ends the host's libvirtd as systemd would (SIGTERM) and returns when it is gone; domains run on.
// One that does not run is no error. The test's end starts it again.
func StopLibvirtd(t testing.TB) { endLibvirtd(t, unix.SIGTERM) }

// KillLibvirtd is StopLibvirtd with SIGKILL: pid file and socket stay behind.
func KillLibvirtd(t testing.TB) { endLibvirtd(t, unix.SIGKILL) }

func endLibvirtd(t testing.TB, s unix.Signal) {
	t.Helper()
	t.Cleanup(func() { StartLibvirtd(t) })
	if err := endDaemon(libvirtdPid, "libvirtd", s); err != nil {
		t.Fatal("testhost:", err)
	}
}

// endDaemon signals the daemon behind a pid file and waits, through a pidfd, until it is gone.
func endDaemon(pidfile, name string, s unix.Signal) error {
	fd, err := openPid(pidfile, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(commandTimeout.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for %s: %w", name, err)
		case n == 0:
			return fmt.Errorf("%s still runs %v after signal %v", name, commandTimeout, s)
		default:
			return nil
		}
	}
}

// openPid returns a pidfd of the process behind a pid file if that process bears the name: a file left behind
// by a killed daemon may name a stranger by now.
func openPid(pidfile, name string) (int, error) {
	b, err := os.ReadFile(pidfile)
	if err != nil {
		return -1, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1, fmt.Errorf("%s: %w", pidfile, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", pidfile, err)
	}
	// A pidfd is readable once its process has ended (pidfd_open(2)), reaped or not.
	ended, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", pidfile, err)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || ended > 0 || string(bytes.TrimSpace(comm)) != name {
		_ = unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}
