package domain

import "context"

// Inspection is everything that libvirt says of one domain's devices, live and as defined.
type Inspection struct {
	State   RunState
	Reason  Reason
	Live    *Devices // nil when it has no process
	Defined *Devices // nil for a transient domain

	// SHA-256 (64 hex digits) of the documents as libvirt gives them, without passwords; "" where there is none. The
	// live one changes with everything live, such as an agent that connects.
	LiveHash    string
	DefinedHash string

	GenerationID   string // of the live domain, else of the definition
	HasSnapshots   bool
	HasManagedSave bool
}

// Devices is what one domain document holds.
type Devices struct {
	Disks    []DiskSeen
	NICs     []NICSeen
	Channels []string // names, such as org.qemu.guest_agent.0
	Graphics []string // such as "vnc 127.0.0.1:5900"

	// Foreign names in words everything that a Spec cannot ask for, wherever it stands: host devices, file systems,
	// further ports, QEMU arguments, and whatever is not known.
	Foreign []string
}

// DiskSeen is a disk as libvirt has it.
type DiskSeen struct {
	Path     string
	Format   string
	Serial   string
	Target   string   // vda, vdb, ...
	Chain    []string // the backing files, top to base
	ReadOnly bool
}

// NICSeen is an interface as libvirt has it.
type NICSeen struct {
	Tap      string
	MAC      string
	Network  string
	LinkUp   bool
	Isolated bool
}

// Inspect is not built yet.
func (h *Host) Inspect(ctx context.Context, id ID) (Inspection, error) {
	return Inspection{}, ErrUnsupported
}
