package domain

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func someDocument(t *testing.T) string {
	t.Helper()
	doc, err := DomainXML(Spec{
		ID: "6f1c2f7e-3c0a-4c0e-9a6e-0d8f3a1b2c4d", Name: "cap-6f1c2f7e", Record: "r", VCPUs: 1, MemoryBytes: 1 << 30,
		Disks:     []Disk{{Path: "/a/disk.qcow2", Format: "qcow2", Backing: &BackingFile{Path: "/a/base", Format: "raw"}}},
		NIC:       NIC{Network: "capsules", Tap: "cap-6f1c2f7e", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}},
		VNC:       VNC{Listen: netip.MustParseAddr("127.0.0.1"), Port: 16001, Password: "hush"},
		SerialLog: "/a/serial.log", GenerationID: "0b7bf4a5-0f3c-4f0e-8d5f-5a6b7c8d9e0f",
	}, virtQEMU)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// edits are what somebody may have done to a document, and the words that it is reported by.
var edits = []struct{ name, old, new, foreign, part string }{
	{"host device", "<controller", "<hostdev mode='subsystem' type='usb'><source/></hostdev><controller", "hostdev subsystem usb", "hostdev"},
	{"file system", "<controller", "<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem><controller", "filesystem mount x", "filesystem"},
	{"shared memory", "<controller", "<shmem name='x'><model type='ivshmem-plain'/></shmem><controller", "shmem x", "shmem"},
	{"usb redirection", "<controller", "<redirdev bus='usb' type='spicevmc'/><controller", "redirdev spicevmc", "redirdev"},
	{"tpm", "<controller", "<tpm model='tpm-tis'><backend type='emulator'/></tpm><controller", "tpm tpm-tis", "tpm"},
	{"vsock", "<controller", "<vsock model='virtio'><cid auto='yes'/></vsock><controller", "vsock virtio", "vsock"},
	{"second channel", "<channel", "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel><channel", "one too many", "channel"},
	{"clipboard", "<channel", "<channel type='qemu-vdagent'><target type='virtio' name='com.redhat.spice.0'/></channel><channel", "channel qemu-vdagent virtio com.redhat.spice.0", "channel"},
	{"agent on the network", "<channel type=\"unix\">", "<channel type='tcp'>", "channel tcp", "channel"},
	{"serial port with an input", "<serial type=\"file\">", "<serial type='pty'>", "serial pty", "serial"},
	{"virtio console", "<console", "<console type='pty'><target type='virtio' port='1'/></console><console", "console pty virtio", "console"},
	{"user network", "<interface type=\"network\">", "<interface type='user'>", "interface user", "interface"},
	{"second interface", "<interface", "<interface type='network'><source network='x'/><model type='virtio'/><rom enabled='no'/></interface><interface", "one too many", "interface"},
	{"disk being copied", "<driver name=\"qemu\"", "<mirror type='file' file='/b'/><driver name=\"qemu\"", "disk vda: mirror", "disk"},
	{"network disk", "<disk type=\"file\"", "<disk type='network'", "disk vda: @type network", "disk"},
	{"network base", "<backingStore type=\"file\">", "<backingStore type='network'>", "disk vda: backing file of type network", "disk"},
	{"cdrom", "device=\"disk\"", "device='cdrom'", "disk vda: @device cdrom", "disk"},
	{"spice", "<graphics type=\"vnc\"", "<graphics type='spice'", "graphics spice", ""},
	{"websocket", "<graphics type=\"vnc\"", "<graphics type='vnc' websocket='5700'", "@websocket 5700", ""},
	{"second console", "<graphics", "<graphics type='egl-headless'/><graphics", "graphics egl-headless", ""},
	{"sound", "<audio id=\"1\" type=\"none\">", "<audio id='1' type='alsa'>", "audio alsa", "audio"},
	{"random numbers from a socket", "<backend model=\"random\">", "<backend model='egd' type='tcp'>", "backend/@model egd", "rng"},
	{"host kernel", "hvm</type>", "hvm</type><kernel>/boot/vmlinuz</kernel>", "os: kernel", "os"},
	{"shared RAM", "<nosharepages>", "<access mode='shared'/><nosharepages>", "memoryBacking: access", "memoryBacking"},
	{"QEMU arguments", "<name>", "<c:commandline xmlns:c='http://libvirt.org/schemas/domain/qemu/1.0'><c:arg value='-s'/></c:commandline><name>", "qemu:commandline", "qemu:commandline"},
	{"something new", "<controller", "<wormhole/><controller", "wormhole", ""},
	{"another program", "<controller", "<emulator>/tmp/x</emulator><controller", "emulator /tmp/x", "emulator"},
}

// TestForeign: what a spec cannot have led to is named, whatever it is called, and nothing else is.
func TestForeign(t *testing.T) {
	doc := someDocument(t)
	look := func(doc string) []string {
		n, err := parseNode(doc)
		if err != nil {
			t.Fatal(err)
		}
		return foreign(n)
	}
	if found := look(doc); len(found) > 0 {
		t.Errorf("in a document of ours: %v", found)
	}
	for _, e := range edits {
		found := look(strings.Replace(doc, e.old, e.new, 1))
		if !strings.Contains(strings.Join(found, "; "), e.foreign) || len(found) == 0 {
			t.Errorf("%s: found %q, want %q", e.name, found, e.foreign)
		}
	}
}

// TestRestorable: of a saved description that is not the definition's, nothing is started.
func TestRestorable(t *testing.T) {
	doc := someDocument(t)
	if got, err := restorable(strings.Replace(doc, "</devices>", "</devices><seclabel type='none' model='dac'/>", 1), doc); err != nil || strings.Contains(got, "seclabel type") {
		t.Errorf("QEMU as root: %v, %s", err, got)
	}
	same := strings.NewReplacer("machine=\"q35\"", "machine=\"pc-q35-7.2\"", "hush", "old", "0b7bf4a5", "11111111", "16001", "16002",
		"</memory>", "</memory><currentMemory unit='KiB'>4</currentMemory><resource><partition>/machine</partition></resource>").Replace(doc)
	got, err := restorable(same, strings.ReplaceAll(doc, "\"q35\"", "\"pc-q35-8.2\""))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pc-q35-7.2", "passwd=\"hush\"", "port=\"16001\""} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	for _, e := range edits {
		edited := strings.Replace(doc, e.old, e.new, 1)
		got, err := restorable(edited, doc)
		if e.part != "" && (!errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), e.part)) {
			t.Errorf("%s: %v, want ErrUnusable that names %s", e.name, err, e.part)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the password is in the text", e.name)
		}
		if again, err := restorable(doc, doc); e.part == "" && (err != nil || got != again) {
			t.Errorf("%s: it reaches libvirt: %v\n%s", e.name, err, cmp.Diff(again, got))
		}
	}
	// What is missing counts as well.
	for _, gone := range []string{"<port isolated=\"yes\"></port>", "<rom enabled=\"no\"></rom>", "<nosharepages></nosharepages>"} {
		if _, err := restorable(strings.Replace(doc, gone, "", 1), doc); !errors.Is(err, ErrUnusable) {
			t.Errorf("without %s: %v", gone, err)
		}
	}
	for _, bad := range []string{"", "<domain>", "<domain/>", "<a/><b/>", "\x00", "<domain><devices/></domain>"} {
		if _, err := restorable(bad, doc); !errors.Is(err, ErrUnusable) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBackingChain(t *testing.T) {
	d := Disk{Path: "/a/o", Format: "qcow2", Backing: &BackingFile{Path: "/a/d", Format: "qcow2", Backing: &BackingFile{Path: "/a/b", Format: "raw"}}}
	x := disk(0, d)
	if x.BackingStore.Source.File.SecLabel != nil || x.BackingStore.BackingStore.Source.File.SecLabel[0].Relabel != "no" || x.BackingStore.BackingStore.BackingStore == nil {
		t.Errorf("%+v", x.BackingStore)
	}
	for name, change := range map[string]func(*Disk){
		"raw middle": func(d *Disk) { d.Backing.Format = "raw" },
		"three": func(d *Disk) {
			d.Backing.Backing = &BackingFile{Path: "/a/c", Format: "qcow2", Backing: d.Backing.Backing}
		},
		"circle":  func(d *Disk) { d.Backing.Backing.Path = d.Path },
		"endless": func(d *Disk) { d.Backing.Backing = d.Backing },
	} {
		bad := d
		middle, base := *d.Backing, *d.Backing.Backing
		bad.Backing, middle.Backing = &middle, &base
		var f faults
		change(&bad)
		if bad.validate(&f, "disk"); len(f.errs) == 0 {
			t.Errorf("%s: no fault", name)
		}
	}
}

// TestStillHash: a guest cannot write into the hash of its domain, and nobody else can change it unseen.
func TestStillHash(t *testing.T) {
	hash := func(old, new string) string {
		t.Helper()
		doc := strings.Replace(someDocument(t), "</memory>", "</memory><currentMemory unit='KiB'>1048576</currentMemory>", 1)
		if !strings.Contains(doc, old) {
			t.Fatalf("the document has no %s", old)
		}
		n, err := parseNode(strings.Replace(doc, old, new, 1))
		if err != nil {
			t.Fatal(err)
		}
		return n.stillHash()
	}
	was, agent := hash("", ""), `name="org.qemu.guest_agent.0"`
	for _, e := range [][2]string{{">1048576</currentMemory>", ">7</currentMemory>"}, {agent, agent + ` state="connected"`}} {
		if hash(e[0], e[1]) != was {
			t.Errorf("%s is in the hash", e[1])
		}
	}
	for _, e := range edits {
		if hash(e.old, e.new) == was {
			t.Errorf("%s is not in the hash", e.name)
		}
	}
}
