// Package testhost gives tests, and any command, a hypervisor host of their own on an ordinary machine.
//
// A host is a set of new namespaces (pid, mount, network, uts, ipc and, where it can, cgroup) under an init
// that reaps: a private /dev without /dev/kvm, a fresh /proc and /sys, private /run, /etc, /var/lib/libvirt,
// /var/log/libvirt, /var/cache/libvirt, /var/lib/capsuled and /etc/capsuled, on request a libvirtd of its own,
// and an outside world: a second network namespace behind a pair of interfaces ([HostAddr], [WorldAddr]).
// It has no other network.
//
// A test package asks for it in one line:
//
//	func TestMain(m *testing.M) { testhost.Main(m, testhost.WithLibvirt()) }
//
// How it works. The program starts itself again in four roles. The launcher is the process that was started;
// it stays outside, passes signals on and returns the exit code. The init is process 1 of the namespaces: it
// sets the host up, starts the guest of honour (the tests, the command) and reaps orphans. The janitor waits
// outside for the launcher to end, however it ends, and then removes the state directory and the cgroups.
// Arguments, environment, working directory and standard files pass through unchanged, but for TMPDIR, which
// lies in the state directory so that it goes with it.
//
// Guarantees. Outside the namespaces nothing changes but the state directory under TMPDIR, empty cgroups below
// the caller's own, and build/guest in the module. Everything that runs inside ends with the tests or the command,
// with the init, and with the launcher (also by SIGKILL). The test guest ([Guest]) is built outside, on request, because
// inside there is no network to fetch packages from.
//
// What it is not: a security boundary. Inside runs as root, and the rest of the file system is the machine's.
//
// Concurrency: any number of hosts can live side by side on one machine. Functions that stop and start daemons
// act on the whole host: tests that use them must not be parallel.
package testhost
