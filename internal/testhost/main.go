package testhost

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
)

const (
	envRole    = "CAPSULED_TESTHOST_ROLE" // set for exactly one process, which removes it
	envState   = "CAPSULED_TESTHOST"      // the state directory; set for everything inside
	envProgram = "CAPSULED_TESTHOST_PROGRAM"

	roleInit    = "init"
	roleJanitor = "janitor"
	roleInside  = "inside"

	// ExitSetup is the exit code when the host could not be made: no root, programs missing, set-up failed.
	ExitSetup = 125
)

// Option says what a host has beyond its namespaces and the outside world.
type Option func(*config)

type config struct {
	libvirt bool
	cgroups bool
}

// WithLibvirt starts virtlogd and libvirtd before the tests or the command run.
func WithLibvirt() Option { return func(c *config) { c.libvirt = true } }

// WithoutCgroups gives the host no cgroups, as on machines whose hierarchies cannot be delegated; libvirtd is
// then told to use none.
func WithoutCgroups() Option { return func(c *config) { c.cgroups = false } }

func newConfig(opts []Option) config {
	c := config{cgroups: true}
	for _, o := range opts {
		o(&c)
	}
	return c
}

// Main runs the tests of m inside a new host and exits with their code; call it from TestMain, and nothing
// before it that should happen only once. A test binary that one of its own tests starts again (a fuzz worker, a
// process to be killed) stays in the host it was started in.
func Main(m *testing.M, opts ...Option) { os.Exit(Wrap(m, opts...).Run()) }

// Runner is what testing.M and testscript.TestingM have in common.
type Runner interface{ Run() int }

type hosted struct {
	inner Runner
	opts  []Option
}

// Wrap returns a Runner whose Run runs m inside a new host, for callers that compose it with another wrapper of
// testing.M (testscript.Main).
func Wrap(m Runner, opts ...Option) Runner { return hosted{m, opts} }

func (h hosted) Run() int {
	if os.Getenv(envRole) == "" && os.Getenv(envProgram) == program() {
		return h.inner.Run()
	}
	return Enter(h.inner.Run, h.opts...)
}

// Enter makes a host, calls inside in a copy of this process within it, and returns its exit code, 128 and the
// signal's number if a signal ended it, or [ExitSetup]. It must be reached with the same arguments by every copy
// of the program: call it early in main.
func Enter(inside func() int, opts ...Option) int {
	// Parent-death signals and unshared namespaces belong to a thread, not to a process.
	runtime.LockOSThread()
	c := newConfig(opts)
	role := os.Getenv(envRole)
	if err := os.Unsetenv(envRole); err != nil {
		return complain(err)
	}
	switch role {
	case roleInit:
		return runInit(c)
	case roleJanitor:
		return runJanitor()
	case roleInside:
		runtime.UnlockOSThread()
		return inside()
	}
	return launch(c)
}

// Inside reports whether this process runs in a host.
func Inside() bool { return os.Getenv(envState) != "" }

// program identifies the running executable whatever its path.
func program() string {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/exe", &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "testhost:", err)
	return ExitSetup
}
