package domain_test

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/golden"
)

// plain is a spec with one raw disk.
func plain() domain.Spec {
	return domain.Spec{
		ID: "6f1c2f7e-3c0a-4c0e-9a6e-0d8f3a1b2c4d", Name: "cap-6f1c2f7e", Record: "6f1c2f7e-3c0a-4c0e-9a6e-0d8f3a1b2c4d",
		VCPUs: 1, MemoryBytes: 1 << 30,
		Disks:        []domain.Disk{{Path: "/var/lib/capsuled/capsules/a/root.raw", Format: "raw"}},
		NIC:          domain.NIC{Network: "capsules", Tap: "cap-6f1c2f7e", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}},
		VNC:          domain.VNC{Listen: netip.MustParseAddr("127.0.0.1"), Port: 16001, Password: "secret"},
		SerialLog:    "/var/lib/capsuled/capsules/a/serial.log",
		GenerationID: "0b7bf4a5-0f3c-4f0e-8d5f-5a6b7c8d9e0f",
	}
}

// whole uses every field, and characters that XML must escape.
func whole() domain.Spec {
	s := plain()
	s.Labels = map[string]string{"user": `a <b> & "c" 'd' é`, "project": "hathi", "flavor": "small"}
	s.VCPUs, s.MemoryBytes = 4, 4<<30
	s.Disks = []domain.Disk{
		{Path: "/var/lib/capsuled/capsules/a/root.qcow2", Format: "qcow2", Serial: "root",
			Backing: &domain.BackingFile{Path: "/var/lib/capsuled/capsules/a/base.raw", Format: "raw"}},
		{Path: "/var/lib/capsuled/capsules/a/volume & spool.raw", Format: "raw", Serial: "secure_volume"},
	}
	s.VNC = domain.VNC{Listen: netip.MustParseAddr("::1"), Port: 65535, Password: `<&"'>]]`}
	return s
}

func TestDomainXML(t *testing.T) {
	for _, row := range []struct {
		name     string
		spec     domain.Spec
		virtType string
	}{
		{"plain-qemu", plain(), "qemu"},
		{"plain-kvm", plain(), "kvm"},
		{"whole-qemu", whole(), "qemu"},
		{"whole-kvm", whole(), "kvm"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := domain.DomainXML(row.spec, row.virtType)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, row.name, got)
			again, _ := domain.DomainXML(row.spec, row.virtType)
			if again != got {
				t.Error("the same spec gave other bytes")
			}
			sh(t, "virt-xml-validate", filepath.Join("testdata", row.name+".golden"), "domain")
		})
	}
}

// TestDeviceAllowList fails when a kind of device appears that nobody thought about.
func TestDeviceAllowList(t *testing.T) {
	got, err := domain.DomainXML(whole(), "qemu")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"disk": true, "controller": true, "interface": true, "serial": true, "console": true,
		"channel": true, "graphics": true, "audio": true, "video": true, "memballoon": true, "rng": true, "panic": true}
	_, devices, _ := strings.Cut(got, "<devices>")
	for _, m := range regexp.MustCompile(`(?m)^    <([a-z]+)`).FindAllStringSubmatch(devices, -1) {
		if !allowed[m[1]] {
			t.Errorf("a device of kind %s", m[1])
		}
	}
	for _, never := range []string{"vdagent", "spice", "hostdev", "redirdev", "filesystem", "shmem", "tpm", "<sound", "qemu:commandline"} {
		if strings.Contains(got, never) {
			t.Errorf("%s is in the document", never)
		}
	}
}

func TestSpecInvalid(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*domain.Spec)
		text   string
	}{
		{"id", func(s *domain.Spec) { s.ID = "x" }, `id "x"`},
		{"id in upper case", func(s *domain.Spec) { s.ID = "6F1C2F7E-3C0A-4C0E-9A6E-0D8F3A1B2C4D" }, "lower-case"},
		{"nil id", func(s *domain.Spec) { s.ID = "00000000-0000-0000-0000-000000000000" }, "UUID"},
		{"empty name", func(s *domain.Spec) { s.Name = "" }, "name"},
		{"long name", func(s *domain.Spec) { s.Name = "cap-0123456789ab" }, "name"},
		{"path in name", func(s *domain.Spec) { s.Name = "../x" }, "name"},
		{"newline in name", func(s *domain.Spec) { s.Name = "cap\n" }, "name"},
		{"no record", func(s *domain.Spec) { s.Record = "" }, "record"},
		{"label name", func(s *domain.Spec) { s.Labels = map[string]string{"A b": ""} }, "label name"},
		{"label value", func(s *domain.Spec) { s.Labels = map[string]string{"user": "a\x00"} }, "label user"},
		{"label not UTF-8", func(s *domain.Spec) { s.Labels = map[string]string{"user": "\xff"} }, "label user"},
		{"no vcpus", func(s *domain.Spec) { s.VCPUs = 0 }, "0 vcpus"},
		{"many vcpus", func(s *domain.Spec) { s.VCPUs = 256 }, "256 vcpus"},
		{"no memory", func(s *domain.Spec) { s.MemoryBytes = 0 }, "memory"},
		{"negative memory", func(s *domain.Spec) { s.MemoryBytes = -1 << 20 }, "memory"},
		{"odd memory", func(s *domain.Spec) { s.MemoryBytes++ }, "memory"},
		{"no disk", func(s *domain.Spec) { s.Disks = nil }, "0 disks"},
		{"relative disk", func(s *domain.Spec) { s.Disks[0].Path = "root.raw" }, "not absolute"},
		{"disk with dots", func(s *domain.Spec) { s.Disks[0].Path = "/a/../etc/shadow" }, "not absolute and clean"},
		{"control character", func(s *domain.Spec) { s.Disks[0].Path = "/a\x01" }, "control"},
		{"disk format", func(s *domain.Spec) { s.Disks[0].Format = "vmdk" }, "format"},
		{"disk twice", func(s *domain.Spec) { s.Disks = append(s.Disks, s.Disks[0]) }, "twice"},
		{"serial", func(s *domain.Spec) { s.Disks[0].Serial = "012345678901234567890" }, "serial"},
		{"serial characters", func(s *domain.Spec) { s.Disks[0].Serial = "a,b" }, "serial"},
		{"raw overlay", func(s *domain.Spec) { s.Disks[0].Backing = &domain.BackingFile{Path: "/b", Format: "raw"} }, "no backing"},
		{"tap", func(s *domain.Spec) { s.NIC.Tap = "cap-0123456789ab" }, "tap"},
		{"libvirt's tap", func(s *domain.Spec) { s.NIC.Tap = "vnet0" }, "rename"},
		{"network", func(s *domain.Spec) { s.NIC.Network = "" }, "network"},
		{"multicast mac", func(s *domain.Spec) { s.NIC.MAC[0] = 1 }, "unicast"},
		{"short mac", func(s *domain.Spec) { s.NIC.MAC = s.NIC.MAC[:5] }, "unicast"},
		{"zero mac", func(s *domain.Spec) { s.NIC.MAC = make(net.HardwareAddr, 6) }, "unicast"},
		{"listen", func(s *domain.Spec) { s.VNC.Listen = netip.Addr{} }, "listen"},
		{"low port", func(s *domain.Spec) { s.VNC.Port = 5899 }, "port"},
		{"high port", func(s *domain.Spec) { s.VNC.Port = 65536 }, "port"},
		{"no password", func(s *domain.Spec) { s.VNC.Password = "" }, "password"},
		{"long password", func(s *domain.Spec) { s.VNC.Password = "123456789" }, "password"},
		{"password not ASCII", func(s *domain.Spec) { s.VNC.Password = "é" }, "ASCII"},
		{"serial log", func(s *domain.Spec) { s.SerialLog = "" }, "serial log"},
		{"generation", func(s *domain.Spec) { s.GenerationID = "" }, "generation"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := plain()
			row.change(&s)
			_, err := domain.DomainXML(s, "qemu")
			if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("error %v, want ErrInvalid with %q", err, row.text)
			}
			if s.VNC.Password != "" && strings.Contains(err.Error(), s.VNC.Password) {
				t.Error("the password is in the text")
			}
		})
	}
	if _, err := domain.DomainXML(plain(), "xen"); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("virt type xen: %v", err)
	}
}

func TestSpecHash(t *testing.T) {
	// Written down: a hash that changes with the version would have every domain defined anew.
	for name, row := range map[string]struct {
		spec domain.Spec
		want string
	}{
		"plain": {plain(), "sha256:9a3c1f3299c4c63ae690aaddb7ff0b43c0612beb1d5d206bc78071abdceebf6c"},
		"whole": {whole(), "sha256:c38dd9c0fee8b7b838ad2ed0f3a05618d19bd7d2b7dd33fc994ca375263b213d"},
	} {
		if got := domain.SpecHash(row.spec); got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
	seen := map[string]string{domain.SpecHash(plain()): "nothing"}
	for name, change := range map[string]func(*domain.Spec){
		"name": func(s *domain.Spec) { s.Name = "other" }, "record": func(s *domain.Spec) { s.Record = "other" },
		"labels": func(s *domain.Spec) { s.Labels = map[string]string{"a": "b"} }, "vcpus": func(s *domain.Spec) { s.VCPUs++ },
		"memory": func(s *domain.Spec) { s.MemoryBytes *= 2 }, "disk": func(s *domain.Spec) { s.Disks[0].Path += "x" },
		"serial": func(s *domain.Spec) { s.Disks[0].Serial = "x" }, "mac": func(s *domain.Spec) { s.NIC.MAC[5]++ },
		"port": func(s *domain.Spec) { s.VNC.Port++ }, "log": func(s *domain.Spec) { s.SerialLog += "x" },
		"backing": func(s *domain.Spec) { s.Disks[0].Backing = &domain.BackingFile{} },
		"genid":   func(s *domain.Spec) { s.GenerationID = "x" },
	} {
		s := plain()
		change(&s)
		if other, there := seen[domain.SpecHash(s)]; there {
			t.Errorf("a change of %s has the same hash as a change of %s", name, other)
		}
		seen[domain.SpecHash(s)] = name
	}
	s := plain()
	s.VNC.Password, s.Labels = "other", map[string]string{}
	if domain.SpecHash(s) != domain.SpecHash(plain()) {
		t.Error("the password, or an empty map, is in the hash")
	}
}
