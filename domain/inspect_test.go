package domain_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/domain"
	"github.com/google/go-cmp/cmp"
)

// redefine changes a domain's definition behind the package's back; virsh says whether libvirt takes it.
func redefine(t *testing.T, name, old, replacement string) {
	t.Helper()
	doc := virsh(t, "dumpxml", "--inactive", "--security-info", name)
	if !strings.Contains(doc, old) {
		t.Fatalf("no %s in %s", old, doc)
	}
	file := filepath.Join(t.TempDir(), "changed.xml")
	noErr(t, "write", os.WriteFile(file, []byte(strings.Replace(doc, old, replacement, 1)), 0o600))
	virsh(t, "define", file)
}

func TestInspect(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-look", idle)
	_, err := h.Inspect(ctx, s.ID)
	wantErr(t, "of no domain", err, domain.ErrNotFound)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	noErr(t, "define", h.Define(ctx, s))
	want := &domain.Devices{
		Disks:    []domain.DiskSeen{{Path: s.Disks[0].Path, Format: "raw", Serial: "root", Target: "vda"}},
		NICs:     []domain.NICSeen{{Tap: s.NIC.Tap, MAC: s.NIC.MAC.String(), Network: s.NIC.Network, LinkUp: true, Isolated: true}},
		Channels: []string{"org.qemu.guest_agent.0"}, Graphics: []string{"vnc 127.0.0.1:" + portOf(s)},
	}
	off, err := h.Inspect(ctx, s.ID)
	noErr(t, "inspect", err)
	if diff := cmp.Diff(domain.Inspection{State: domain.Off, Defined: want, DefinedHash: off.DefinedHash, GenerationID: s.GenerationID}, off); diff != "" {
		t.Error("off:", diff)
	}
	noErr(t, "start", h.Start(ctx, s.ID))
	on, err := h.Inspect(ctx, s.ID)
	noErr(t, "inspect", err)
	if diff := cmp.Diff(domain.Inspection{State: domain.Running, Live: want, Defined: want, LiveHash: on.LiveHash, DefinedHash: off.DefinedHash, GenerationID: s.GenerationID}, on); diff != "" {
		t.Error("on:", diff)
	}
	if again, err := h.Inspect(ctx, s.ID); err != nil || again.LiveHash != on.LiveHash || len(on.LiveHash) != 64 || len(on.DefinedHash) != 64 {
		t.Errorf("again: %+v, %v", again, err)
	}
	s.VNC.Password = "changed"
	noErr(t, "define", h.Define(ctx, s))
	if again, err := h.Inspect(ctx, s.ID); err != nil || again.DefinedHash != on.DefinedHash {
		t.Errorf("the password is in the hash: %v", err)
	}
	// What is plugged in by somebody else, and a definition that says otherwise than what runs.
	file := filepath.Join(t.TempDir(), "channel.xml")
	noErr(t, "write", os.WriteFile(file, []byte("<channel type='pty'><target type='virtio' name='x.y'/></channel>"), 0o600))
	virsh(t, "attach-device", "--live", s.Name, file)
	in, err := h.Inspect(ctx, s.ID)
	if err != nil || !strings.Contains(strings.Join(in.Live.Foreign, ";"), "channel pty virtio x.y") || len(in.Defined.Foreign) > 0 || in.LiveHash == on.LiveHash {
		t.Errorf("with a channel: %+v, %v", in.Live, err)
	}
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	virsh(t, "start", s.Name)
	virsh(t, "managedsave", s.Name)
	if in, err := h.Inspect(ctx, s.ID); err != nil || !in.HasManagedSave || in.HasSnapshots || in.State != domain.Off {
		t.Errorf("with a managed save: %+v, %v", in, err)
	}
	virsh(t, "managedsave-remove", s.Name)
	snapshot := filepath.Join(t.TempDir(), "snapshot.xml")
	noErr(t, "write", os.WriteFile(snapshot, []byte("<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='"+s.Disks[0].Path+".snap'/></disk></disks></domainsnapshot>"), 0o600))
	virsh(t, "start", s.Name)
	virsh(t, "snapshot-create", s.Name, snapshot, "--disk-only")
	if in, err := h.Inspect(ctx, s.ID); err != nil || in.HasManagedSave || !in.HasSnapshots || in.Live.Disks[0].Chain[0] != s.Disks[0].Path {
		t.Errorf("with a snapshot: %+v, %v", in, err)
	}
}

func portOf(s domain.Spec) string { return strconv.Itoa(s.VNC.Port) }

// TestInspectFindsStrangers: every kind of device that this libvirt defines and a spec cannot ask for.
func TestInspectFindsStrangers(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-odd", idle)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	const anchor = "<input type='mouse'"
	for _, row := range []struct{ name, xml, words string }{
		{"host device", "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='0' slot='2' function='0'/></source></hostdev>", "hostdev subsystem pci"},
		{"file system", "<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem>", "filesystem"},
		{"shared memory", "<shmem name='x'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>", "shmem x"},
		{"vsock", "<vsock model='virtio'><cid auto='yes'/></vsock>", "vsock virtio"},
		{"pty channel", "<channel type='pty'><target type='virtio' name='x'/></channel>", "channel pty virtio x"},
		{"clipboard", "<channel type='qemu-vdagent'><source><clipboard copypaste='yes'/></source><target type='virtio' name='com.redhat.spice.0'/></channel>", "channel qemu-vdagent virtio com.redhat.spice.0"},
		{"second serial port", "<serial type='pty'><target port='1'/></serial>", "serial pty"},
		{"virtio console", "<console type='pty'><target type='virtio' port='1'/></console>", "console pty virtio"},
		{"second interface", "<interface type='user'><model type='virtio'/></interface>", "interface user"},
		{"sound", "<sound model='ich9'/>", "sound ich9"},
		{"watchdog", "<watchdog model='i6300esb' action='reset'/>", "watchdog i6300esb"},
		{"tpm", "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", "tpm tpm-tis"},
		{"network disk", "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'><host name='192.0.2.1'/></source><target dev='vdc' bus='virtio'/></disk>", "disk vdc: @type network"},
		{"cdrom", "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>", "disk sda: @device cdrom"},
		{"scsi controller", "<controller type='scsi' index='3' model='virtio-scsi'/>", "controller scsi virtio-scsi"},
	} {
		t.Run(row.name, func(t *testing.T) {
			noErr(t, "define", h.Define(ctx, s))
			redefine(t, s.Name, anchor, row.xml+anchor)
			in, err := h.Inspect(ctx, s.ID)
			noErr(t, "inspect", err)
			if found := strings.Join(in.Defined.Foreign, "; "); !strings.Contains(found, row.words) {
				t.Errorf("found %q, want %q", found, row.words)
			}
			noErr(t, "define", h.Define(ctx, s))
			if in, err := h.Inspect(ctx, s.ID); err != nil || len(in.Defined.Foreign) > 0 {
				t.Errorf("defined again: %+v, %v", in.Defined, err)
			}
		})
	}
}
