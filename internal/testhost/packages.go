package testhost

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

//go:embed packages.txt
var packageList string

var (
	hostPrograms    = []string{"ip"}
	libvirtPrograms = []string{"libvirtd", "virsh", "qemu-system-x86_64", "dnsmasq"}
)

var errNotRoot = errors.New("making namespaces needs root; run it as root")

// checkMachine says what is missing to make a host, with the line that mends it.
func checkMachine(c config) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	programs := hostPrograms
	if c.libvirt {
		programs = slices.Concat(hostPrograms, libvirtPrograms)
	}
	return checkPrograms(programs)
}

func checkPrograms(programs []string) error {
	var missing, packages []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
			packages = append(packages, packageOf(p))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing %s; run: apt-get install -y --no-install-recommends %s",
		strings.Join(missing, ", "), strings.Join(packages, " "))
}

// packageOf returns the package that brings a program, by the list.
func packageOf(program string) string {
	for line := range strings.Lines(packageList) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == program {
			return f[0]
		}
	}
	return program
}
