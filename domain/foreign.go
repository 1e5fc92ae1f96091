package domain

import (
	"path/filepath"
	"slices"
	"strings"
)

// shape says what of one kind of element a Spec can lead to, once libvirt has filled it in. What is not said is foreign.
type shape struct {
	want  map[string]string // values that these paths must have: "" is absent, words are a choice
	kids  string            // the children that may be there
	limit int               // how many of it may be there; 0 is any number
}

// knownDevices are the devices that devices.go lists, and those that libvirt adds by itself: a PS/2 keyboard and mouse,
// the chipset's SATA controller, and from 9.1 on its watchdog.
var knownDevices = map[string]shape{
	"emulator": {limit: 1},
	"disk": {
		want: map[string]string{"@type": "file", "@device": "disk", "@snapshot": "", "target/@bus": "virtio", "driver/@name": "qemu", "driver/@type": "raw qcow2"},
		kids: "driver source backingStore target serial boot alias address readonly",
	},
	"controller": {
		want: map[string]string{"@type": "usb virtio-serial pci sata", "@model": " none pcie-root pcie-root-port"},
		kids: "model target alias address",
	},
	"interface": {
		want: map[string]string{"@type": "network", "@trustGuestRxFilters": "", "model/@type": "virtio", "rom/@enabled": "no"},
		kids: "mac source port target model link rom alias address", limit: 1,
	},
	"serial":  {want: map[string]string{"@type": "file", "target/@type": "isa-serial"}, kids: "source target alias", limit: 1},
	"console": {want: map[string]string{"@type": "file", "target/@type": "serial"}, kids: "source target alias", limit: 1},
	"channel": {
		want: map[string]string{"@type": "unix", "source/@mode": " bind", "target/@type": "virtio", "target/@name": agentChannel},
		kids: "source target alias address", limit: 1,
	},
	"input": {want: map[string]string{"@type": "mouse keyboard", "@bus": "ps2"}, kids: "alias"},
	"graphics": {
		want: map[string]string{"@type": "vnc", "@websocket": "", "@socket": "", "@sharePolicy": "ignore", "@powerControl": "no", "listen/@type": "address"},
		kids: "listen", limit: 1,
	},
	"audio":      {want: map[string]string{"@type": "none"}, limit: 1},
	"video":      {want: map[string]string{"model/@type": "vga"}, kids: "model alias address", limit: 1},
	"memballoon": {want: map[string]string{"@model": "virtio"}, kids: "stats alias address", limit: 1},
	"rng": {
		want: map[string]string{"@model": "virtio", "backend/@model": "random", "backend": "/dev/urandom"},
		kids: "rate backend alias address", limit: 1,
	},
	"panic":    {want: map[string]string{"@model": "isa"}, kids: "alias", limit: 1},
	"watchdog": {want: map[string]string{"@model": "itco"}, kids: "alias", limit: 1},
}

// knownParts are what stands beside the devices: what DomainXML writes, what libvirt adds, and what an operator may
// tune without a channel coming of it. A loader, a kernel or shared memory is not among it.
var knownParts = map[string]shape{
	"name": {}, "uuid": {}, "genid": {}, "title": {}, "description": {}, "memory": {}, "currentMemory": {}, "vcpu": {},
	"on_poweroff": {}, "on_reboot": {}, "on_crash": {},
	"memoryBacking": {kids: "nosharepages locked hugepages"},
	"blkiotune":     {kids: "weight device"}, "memtune": {kids: "hard_limit soft_limit swap_hard_limit min_guarantee"},
	"cputune":  {kids: "shares period quota global_period global_quota emulator_period emulator_quota vcpupin emulatorpin"},
	"numatune": {kids: "memory"}, "resource": {kids: "partition"}, "seclabel": {kids: "label imagelabel baselabel"},
	"os":       {kids: "type boot", want: map[string]string{"type": "hvm"}},
	"features": {kids: "acpi apic vmport"}, "cpu": {kids: "model vendor topology feature cache maxphysaddr"},
	"clock": {kids: "timer"}, "pm": {kids: "suspend-to-mem suspend-to-disk"},
}

// emulators are the programs that libvirt calls QEMU by, on Debian and on Red Hat.
var emulators = []string{"qemu-system-x86_64", "qemu-kvm", "kvm"}

// foreign names in words what a Spec cannot have led to.
func foreign(domain *node) []string {
	var found []string
	for _, k := range domain.kids {
		switch k.name {
		case "metadata": // anybody's, and read by nobody but its owner
		case "devices":
			found = append(found, foreignDevices(k)...)
		default:
			found = append(found, against(knownParts, k)...)
		}
	}
	return found
}

func foreignDevices(devices *node) []string {
	var found []string
	count := map[string]int{}
	for _, k := range devices.kids {
		odd := against(knownDevices, k)
		if limit := knownDevices[k.name].limit; len(odd) == 0 && limit > 0 {
			if count[k.name]++; count[k.name] > limit {
				odd = []string{words(k) + ": one too many"}
			}
		}
		if k.name == "emulator" && !slices.Contains(emulators, filepath.Base(k.text)) {
			odd = append(odd, "emulator "+cut(k.text))
		}
		if k.name == "disk" {
			odd = append(odd, foreignChain(words(k), k.kid("backingStore"))...)
		}
		found = append(found, odd...)
	}
	return found
}

// foreignChain looks at the files below a disk.
func foreignChain(disk string, b *node) []string {
	var found []string
	for ; b != nil && len(b.kids) > 0; b = b.kid("backingStore") {
		if b.at("@type") != "file" || !slices.Contains(formats, b.at("format/@type")) {
			found = append(found, disk+": backing file of type "+cut(b.at("@type"))+", format "+cut(b.at("format/@type")))
		}
	}
	return found
}

// against names what of one element is not as its shape says.
func against(known map[string]shape, k *node) []string {
	s, ok := known[k.name]
	if !ok {
		return []string{words(k)}
	}
	var found []string
	for _, path := range sortedKeys(s.want) {
		if v := k.at(path); !slices.Contains(strings.Split(s.want[path], " "), v) {
			found = append(found, words(k)+": "+path+" "+cut(v))
		}
	}
	kids := strings.Fields(s.kids)
	for _, below := range k.kids {
		if !slices.Contains(kids, below.name) {
			found = append(found, words(k)+": "+below.name)
		}
	}
	return found
}

// words names an element by what tells it from others of its kind, such as "hostdev subsystem usb" or "disk vdb".
func words(k *node) string {
	text := k.name
	paths := []string{"@mode", "@type", "@model", "@name", "target/@type", "target/@name", "target/@dir"}
	if k.name == "disk" {
		paths = []string{"target/@dev"}
	}
	for _, path := range paths {
		if v := k.at(path); v != "" {
			text += " " + cut(v)
		}
	}
	return text
}
