package domain

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	kvmNode       = "/dev/kvm"
	cpuInfo       = "/proc/cpuinfo"
	kvmAPIVersion = 12 // fixed since Linux 2.6.22

	// From linux/kvm.h: _IO(0xAE, nr).
	kvmGetAPIVersion = 0xAE00
	kvmCreateVM      = 0xAE01
	kvmCreateVCPU    = 0xAE41
)

// resolveVirtType turns the option into an accelerator. "auto" is KVM only where it works; asking for "kvm" is
// taken at its word, and libvirt refuses the definition where it has none.
func resolveVirtType(opt string, log *slog.Logger) (string, error) {
	switch opt {
	case virtKVM, virtQEMU:
		return opt, nil
	case "", "auto":
	default:
		return "", fmt.Errorf("domain: open: %w: virt type %q is not auto, kvm or qemu", ErrInvalid, opt)
	}
	if err := probeKVM(cpuInfo, kvmNode); err != nil {
		log.Info("kvm not usable, emulating", slog.Any("error", err))
		return virtQEMU, nil
	}
	return virtKVM, nil
}

// probeKVM reports why KVM cannot be used. The node alone proves nothing (a nested host may have one that
// opens, and guests that hang), so the CPU must announce virtualisation and the kernel must make a virtual
// machine with a virtual CPU.
func probeKVM(cpuInfo, node string) error {
	f, err := os.Open(cpuInfo)
	if err != nil {
		return fmt.Errorf("domain: kvm: %w", err)
	}
	defer f.Close()
	if !announces(bufio.NewScanner(f)) {
		return fmt.Errorf("domain: kvm: %w: no vmx or svm flag in %s", ErrUnsupported, cpuInfo)
	}
	kvm, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("domain: kvm: open %s: %w", node, err)
	}
	defer unix.Close(kvm)
	version, err := unix.IoctlRetInt(kvm, kvmGetAPIVersion)
	if err != nil || version != kvmAPIVersion {
		return fmt.Errorf("domain: kvm: %w: %s has API version %d (%v)", ErrUnsupported, node, version, err)
	}
	vm, err := unix.IoctlRetInt(kvm, kvmCreateVM)
	if err != nil {
		return fmt.Errorf("domain: kvm: %s makes no virtual machine: %w", node, err)
	}
	defer unix.Close(vm)
	vcpu, err := unix.IoctlRetInt(vm, kvmCreateVCPU)
	if err != nil {
		return fmt.Errorf("domain: kvm: %s makes no virtual CPU: %w", node, err)
	}
	return unix.Close(vcpu)
}

// announces reports whether the first CPU has Intel's or AMD's virtualisation.
func announces(lines *bufio.Scanner) bool {
	for lines.Scan() {
		name, flags, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "flags" {
			has := strings.Fields(flags)
			return slices.Contains(has, "vmx") || slices.Contains(has, "svm")
		}
	}
	return false
}
