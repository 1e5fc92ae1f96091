package domain

// RunState says what a domain is doing. The zero value is Unknown: what could not be observed is never "off".
type RunState int

const (
	Unknown RunState = iota
	Off              // defined, no process
	Running          // running or shutting down
	Paused           // process there, vCPUs stopped
)

// Reason says why a domain is off or paused, as far as libvirt knows.
type Reason string

const (
	ReasonNone      Reason = ""
	ReasonShutdown  Reason = "shutdown"  // the guest powered itself off
	ReasonDestroyed Reason = "destroyed" // somebody ended the process through libvirt
	ReasonCrashed   Reason = "crashed"   // QEMU or the guest died
	ReasonFailed    Reason = "failed"    // QEMU did not start, or its monitor vanished
	ReasonDaemon    Reason = "daemon"    // libvirtd lost it while it restarted
	ReasonIOError   Reason = "io_error"  // paused by a disk error, such as a full host disk
	ReasonOther     Reason = "other"
)

// Observed is one domain as libvirt has it now.
type Observed struct {
	ID       ID
	Name     string
	Record   string // from the metadata; "" for a domain that nobody marked
	SpecHash string // from the metadata
	State    RunState
	Reason   Reason
}

// Event says that a domain changed. It carries no state to trust: observe the domain.
type Event struct {
	ID ID // "" after a reconnect: everything may have changed
}
