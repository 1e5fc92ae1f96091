package domain

import (
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// The two accelerators, by libvirt's names.
const (
	virtKVM  = "kvm"
	virtQEMU = "qemu"
)

// machine is the chipset: PCI Express, so that devices can be hot-plugged by their root ports.
const machine = "q35"

// rootPorts is how many PCI Express slots a domain has. A device can only be hot-plugged into a free one,
// and ports themselves cannot be added while it runs.
const rootPorts = 12

// balloonPeriod is how often, in seconds, QEMU asks the guest for its memory figures: one small virtio message.
const balloonPeriod = 10

// DomainXML is the libvirt document for s under "kvm" or "qemu". It is a pure function: equal specs give equal
// bytes. A spec that is not valid gives ErrInvalid and every fault.
func DomainXML(s Spec, virtType string) (string, error) {
	if err := s.Validate(); err != nil {
		return "", err
	}
	cpu, ok := cpus[virtType]
	if !ok {
		return "", fmt.Errorf("domain: spec of %s: %w: virt type %q is neither kvm nor qemu", s.Name, ErrInvalid, virtType)
	}
	meta, err := marshalMark(s)
	if err != nil {
		return "", err
	}
	d := libvirtxml.Domain{
		Type:     virtType,
		Name:     s.Name,
		UUID:     string(s.ID),
		GenID:    &libvirtxml.DomainGenID{Value: s.GenerationID},
		Metadata: &libvirtxml.DomainMetadata{XML: meta},
		// RAM stays out of core dumps and is never merged with another domain's (KSM is a side channel).
		Memory:        &libvirtxml.DomainMemory{Value: uint(s.MemoryBytes / 1024), Unit: "KiB", DumpCore: "off"},
		MemoryBacking: &libvirtxml.DomainMemoryBacking{MemoryNosharepages: &libvirtxml.DomainMemoryNosharepages{}},
		VCPU:          &libvirtxml.DomainVCPU{Placement: "static", Value: uint(s.VCPUs)},
		OS: &libvirtxml.DomainOS{
			Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: machine, Type: "hvm"},
		},
		Features: &libvirtxml.DomainFeatureList{
			ACPI:   &libvirtxml.DomainFeature{}, // the power button of Shutdown
			APIC:   &libvirtxml.DomainFeatureAPIC{},
			VMPort: &libvirtxml.DomainFeatureState{State: "off"},
		},
		CPU: &cpu,
		Clock: &libvirtxml.DomainClock{Offset: "utc", Timer: []libvirtxml.DomainTimer{
			{Name: "rtc", TickPolicy: "catchup"},
			{Name: "pit", TickPolicy: "delay"},
			{Name: "hpet", Present: "no"},
		}},
		// A reboot keeps the process, and with it the tap and the fence. A crash ends it: the owner is told and
		// decides, and no memory image is kept.
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		// Asleep looks like running to nobody: a guest that cannot sleep is on or off.
		PM: &libvirtxml.DomainPM{
			SuspendToMem:  &libvirtxml.DomainPMPolicy{Enabled: "no"},
			SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		Devices: devices(s),
	}
	doc, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("domain: xml of %s: %w", s.Name, err)
	}
	return doc + "\n", nil
}

// cpus is the CPU of each accelerator. Both are named models that a saved state can be restored under:
// host-model is expanded by libvirt when the domain starts; TCG gets the x86-64-v2 of today's distributions
// rather than "maximum", whose features change with each QEMU and whose page walks cost more.
var cpus = map[string]libvirtxml.DomainCPU{
	virtKVM: {Mode: "host-model", Check: "partial"},
	virtQEMU: {
		Mode: "custom", Match: "exact", Check: "none",
		Model: &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: "Nehalem"},
	},
}
