package daemon

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// emulatorOverhead is what QEMU needs beside the guest's memory: code, video memory, page tables.
const emulatorOverhead = 96 << 20

// availableMemory is the kernel's estimate of what can be allocated without swapping, in bytes (proc(5), MemAvailable).
func availableMemory() (int64, error) { return meminfo("MemAvailable") }

// totalMemory is the host's memory in bytes.
func totalMemory() (int64, error) { return meminfo("MemTotal") }

func meminfo(field string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int64
		if name, rest, ok := strings.Cut(s.Text(), ":"); ok && name == field {
			if _, err := fmt.Sscanf(rest, "%d kB", &kb); err == nil {
				return kb << 10, nil
			}
		}
	}
	return 0, fmt.Errorf("daemon: /proc/meminfo has no %s", field)
}
