// Package systemd speaks to the service manager: readiness, status, reloads, the watchdog, and log lines with a priority.
//
// The unit and sysusers files that go with it lie beside the code.
//
// Every method of a [Notifier] does nothing when the process was not started by a service manager that listens
// (no NOTIFY_SOCKET), so that the same binary runs in a terminal. A notification that cannot be sent is logged
// and never stops the daemon: the service manager draws its own conclusions.
//
// All methods are safe for concurrent use. The package decides nothing: what "ready" and "healthy" mean is the
// caller's business.
package systemd
