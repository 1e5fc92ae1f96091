package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// machine is the domain of a capsule, taken to a clean point and back with libvirt's bare calls and nothing else. It is
// the same process of the same guest that the daemon switches: the daemon must not run meanwhile.
type machine struct {
	conn    *libvirt.Connect
	dom     *libvirt.Domain
	dir     string
	defined string   // as it is to be defined
	volumes []string // the documents of the disks that it gets
	point   string   // the document of the clean point
	disk    *libvirtxml.DomainDisk
}

func (m *machine) overlay() string { return filepath.Join(m.dir, "overlay.qcow2") }
func (m *machine) ram() string     { return filepath.Join(m.dir, "clean.ram") }

// openMachine looks at a capsule that the daemon has just taken to secure mode: its other disks are what is attached.
func openMachine(capsule string) (_ *machine, err error) {
	m := &machine{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.dir, err = os.MkdirTemp("/var/lib/libvirt/images", "bench-"); err != nil {
		return nil, err
	}
	if err = os.Chmod(m.dir, 0o711); err != nil { // QEMU's user has to pass
		return nil, err
	}
	if m.conn, err = libvirt.NewConnect("qemu:///system"); err != nil {
		return nil, err
	}
	if m.dom, err = m.conn.LookupDomainByUUIDString(capsule); err != nil {
		return nil, err
	}
	if m.defined, err = m.dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE); err != nil {
		return nil, err
	}
	if m.disk, err = firstDisk(m.defined); err != nil {
		return nil, err
	}
	live, err := m.dom.GetXMLDesc(0)
	if err != nil {
		return nil, err
	}
	if m.volumes, err = otherDisks(live); err != nil {
		return nil, err
	}
	m.point, err = m.pointXML()
	return m, err
}

// otherDisks are the documents of all disks but the first, without what libvirt made up when it attached them.
func otherDisks(doc string) (docs []string, err error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(doc); err != nil {
		return nil, err
	}
	for _, d := range x.Devices.Disks[1:] {
		d.Alias, d.Address, d.BackingStore, d.Source.Index = nil, nil, nil, 0
		one, err := d.Marshal()
		if err != nil {
			return nil, err
		}
		docs = append(docs, one)
	}
	if len(docs) == 0 {
		return nil, errors.New("the domain has no disk but the first")
	}
	return docs, nil
}

func firstDisk(doc string) (*libvirtxml.DomainDisk, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(doc); err != nil {
		return nil, err
	}
	d := x.Devices.Disks[0]
	if d.Source == nil || d.Source.File == nil || d.Driver == nil {
		return nil, errors.New("the first disk of the domain is no file")
	}
	return &d, nil
}

// pointXML is the clean point as the daemon has libvirt make it.
func (m *machine) pointXML() (string, error) {
	s := libvirtxml.DomainSnapshot{
		Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "external", File: m.ram()},
		Disks: &libvirtxml.DomainSnapshotDisks{Disks: []libvirtxml.DomainSnapshotDisk{{
			Name: m.disk.Target.Dev, Snapshot: "external",
			Driver: &libvirtxml.DomainDiskDriver{Type: "qcow2"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: m.overlay()}},
		}}},
	}
	return s.Marshal()
}

func (m *machine) close() {
	if m.dom != nil {
		_ = m.dom.Free()
	}
	if m.conn != nil {
		_, _ = m.conn.Close()
	}
	if m.dir != "" {
		_ = os.RemoveAll(m.dir)
	}
}

// prepare makes the overlay, which is no call to libvirt.
func (m *machine) prepare(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", m.disk.Driver.Type, "-b", m.disk.Source.File.File, m.overlay()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	settle()
	return nil
}

// settle has everything written that was not: what one way left to write is not for the next one to wait for.
func settle() { unix.Sync() }

// checkpoint is virDomainSnapshotCreateXML with the daemon's flags.
func (m *machine) checkpoint() (time.Duration, error) {
	return clock(func() error {
		s, err := m.dom.CreateSnapshotXML(m.point, libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA|libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT|libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC)
		if err != nil {
			return err
		}
		return s.Free()
	})
}

// attach gives it the volumes.
func (m *machine) attach() (time.Duration, error) {
	return clock(func() error {
		for _, doc := range m.volumes {
			if err := m.dom.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
				return err
			}
		}
		return nil
	})
}

// back is the way back to the clean point: each call, in its order.
func (m *machine) back() (calls [3]time.Duration, err error) {
	for i, call := range []func() error{
		m.dom.Destroy,
		func() error { return m.conn.DomainRestoreFlags(m.ram(), "", libvirt.DOMAIN_SAVE_PAUSED) },
		m.dom.Resume,
	} {
		if calls[i], err = clock(call); err != nil {
			return calls, err
		}
	}
	return calls, nil
}

// tidy leaves it as the daemon knows it.
func (m *machine) tidy() error {
	dom, err := m.conn.DomainDefineXML(m.defined)
	if err != nil {
		return err
	}
	return errors.Join(dom.Free(), os.Remove(m.overlay()), os.Remove(m.ram()))
}

// monitor is one command of QEMU's own monitor, which says nothing when it has worked.
func (m *machine) monitor(command string) (time.Duration, error) {
	return clock(func() error {
		out, err := m.dom.QemuMonitorCommand(command, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_HMP)
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("%s: %s", command, strings.TrimSpace(out))
		}
		return err
	})
}

func clock(f func() error) (time.Duration, error) {
	began := time.Now()
	err := f()
	return time.Since(began), err
}
