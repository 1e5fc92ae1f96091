package domain

import (
	"libvirt.org/go/libvirtxml"
)

// agentChannel is the name under which a guest finds its end of the agent's channel.
const agentChannel = "org.qemu.guest_agent.0"

// devices lists every device of a domain. What is not named here is not there: no sound, no USB (and so no
// redirection), no host device, no file system share, no shared memory, no TPM, no watchdog, no vdagent and so
// no clipboard.
func devices(s Spec) *libvirtxml.DomainDeviceList {
	l := &libvirtxml.DomainDeviceList{
		Controllers: controllers(),
		Interfaces:  []libvirtxml.DomainInterface{nic(s.NIC)},
		Serials:     []libvirtxml.DomainSerial{serial(s.SerialLog)},
		Consoles:    []libvirtxml.DomainConsole{console(s.SerialLog)},
		Channels:    []libvirtxml.DomainChannel{agent()},
		Graphics:    []libvirtxml.DomainGraphic{vnc(s.VNC)},
		// Said in so many words: libvirt adds a sound back end to VNC otherwise.
		Audios: []libvirtxml.DomainAudio{{ID: 1, None: &libvirtxml.DomainAudioNone{}}},
		// Plain VGA works with every guest from its first BIOS line on.
		Videos: []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga", VRam: 16384, Heads: 1, Primary: "yes"}}},
		// The only source of a guest's true memory use; see balloonPeriod. The figures are the guest's own words:
		// numbers, never strings.
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", Stats: &libvirtxml.DomainMemBalloonStats{Period: balloonPeriod}},
		// urandom never blocks; the rate keeps a guest that reads without end from costing the host a CPU.
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Rate:    &libvirtxml.DomainRNGRate{Bytes: 16384, Period: 1000},
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
		// Turns a kernel panic in the guest into an event with a reason.
		Panics: []libvirtxml.DomainPanic{{Model: "isa"}},
	}
	for i, d := range s.Disks {
		l.Disks = append(l.Disks, disk(i, d))
	}
	return l
}

func controllers() []libvirtxml.DomainController {
	index := func(i uint) *uint { return &i }
	list := []libvirtxml.DomainController{
		{Type: "usb", Index: index(0), Model: "none"},
		{Type: "virtio-serial", Index: index(0)},
		{Type: "pci", Index: index(0), Model: "pcie-root"},
	}
	for i := range uint(rootPorts) {
		list = append(list, libvirtxml.DomainController{Type: "pci", Index: index(i + 1), Model: "pcie-root-port"})
	}
	// Behind a port without hot-plug, the guest has nothing to eject its interface with.
	list[len(list)-rootPorts].PCI = &libvirtxml.DomainControllerPCI{Target: &libvirtxml.DomainControllerPCITarget{Hotplug: "off"}}
	return list
}

// disk is a virtio disk whose whole chain is written down, down to the empty element that ends it: libvirt
// then probes nothing, and a header that the guest wrote into its disk means nothing.
//
// cache "writeback" honours the guest's flushes, and lets the base that many overlays share be in the host's
// page cache once; it needs no O_DIRECT of the file system. What the guest discards or overwrites with zeroes
// becomes a hole. A full host disk stops the guest, which resumes when there is room: "report" would let it
// remount its disk read-only.
func disk(i int, d Disk) libvirtxml.DomainDisk {
	x := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{
			Name: "qemu", Type: d.Format, Cache: "writeback", ErrorPolicy: "stop", Discard: "unmap", DetectZeros: "unmap",
		},
		Source: file(d.Path),
		Target: &libvirtxml.DomainDiskTarget{Dev: "vd" + string(rune('a'+i)), Bus: "virtio"},
		Serial: d.Serial,
	}
	if i == 0 {
		x.Boot = &libvirtxml.DomainDeviceBoot{Order: 1}
	}
	x.BackingStore = backing(d.Backing)
	return x
}

// backing is the rest of a chain, ended by an empty element.
func backing(b *BackingFile) *libvirtxml.DomainDiskBackingStore {
	if b == nil {
		return &libvirtxml.DomainDiskBackingStore{}
	}
	src := file(b.Path)
	if b.Backing == nil {
		// The base is an inode that others share: libvirt must not chown it.
		src.File.SecLabel = []libvirtxml.DomainDeviceSecLabel{{Model: "dac", Relabel: "no"}}
	}
	return &libvirtxml.DomainDiskBackingStore{
		Format:       &libvirtxml.DomainDiskFormat{Type: b.Format},
		Source:       src,
		BackingStore: backing(b.Backing),
	}
}

func file(path string) *libvirtxml.DomainDiskSource {
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

// nic has no boot ROM: a domain boots from its first disk or not at all, never from the network. Its place is behind
// the first root port, where libvirt would have put it anyway.
func nic(n NIC) libvirtxml.DomainInterface {
	domain, bus, slot, function := uint(0), uint(1), uint(0), uint(0)
	return libvirtxml.DomainInterface{
		MAC:         &libvirtxml.DomainInterfaceMAC{Address: n.MAC.String()},
		Source:      &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}},
		Target:      &libvirtxml.DomainInterfaceTarget{Dev: n.Tap},
		Model:       &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		PortOptions: &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"},
		ROM:         &libvirtxml.DomainROM{Enabled: "no"},
		Address:     &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: &domain, Bus: &bus, Slot: &slot, Function: &function}},
	}
}

// serial is a file and nothing else: there is no way in. virtlogd writes it, rolls it over at its max_size
// (2 MiB) and keeps max_backups (3) older ones, so that a guest that prints without end fills nothing. A pty
// with a log beside it would have the same cap, and an input.
func serial(path string) libvirtxml.DomainSerial {
	port := uint(0)
	return libvirtxml.DomainSerial{
		Source: serialSource(path),
		Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port, Model: &libvirtxml.DomainSerialTargetModel{Name: "isa-serial"}},
	}
}

// console is the same port under its other name; libvirt would add it, and the document should be whole.
func console(path string) libvirtxml.DomainConsole {
	port := uint(0)
	return libvirtxml.DomainConsole{Source: serialSource(path), Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port}}
}

func serialSource(path string) *libvirtxml.DomainChardevSource {
	return &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: path, Append: "on"}}
}

func agent() libvirtxml.DomainChannel {
	return libvirtxml.DomainChannel{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: agentChannel}},
	}
}

// vnc lets several viewers in ("ignore": none can throw out the others, as an exclusive client could, and none
// is refused for asking to be alone), and none of them press the power button.
func vnc(v VNC) libvirtxml.DomainGraphic {
	return libvirtxml.DomainGraphic{VNC: &libvirtxml.DomainGraphicVNC{
		Port: v.Port, AutoPort: "no", Passwd: v.Password, SharePolicy: "ignore", PowerControl: "no",
		Listeners: []libvirtxml.DomainGraphicListener{{Address: &libvirtxml.DomainGraphicListenerAddress{Address: v.Listen.String()}}},
	}}
}
