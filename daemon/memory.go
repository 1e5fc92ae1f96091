package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/capsuled/capsuled/daemon/store"
)

// emulatorOverhead is what QEMU needs beside the guest's memory: code, video memory, page tables.
const emulatorOverhead = 96 << 20

// footprint is what a running capsule may come to need of the host, in bytes.
func footprint(memoryMB int) int64 { return int64(memoryMB)<<20 + emulatorOverhead }

// freeMemory is what the host has left for one more capsule, in bytes: what the kernel could give now, and no more
// than what the capsules that run beside it have not been promised. A guest touches its memory late.
func (d *Daemon) freeMemory(ctx context.Context, but string) (int64, error) {
	now, err := availableMemory()
	if err != nil {
		return 0, err
	}
	unpromised, err := totalMemory()
	if err != nil {
		return 0, err
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Capsules()
		for _, c := range all {
			if c.ID == but || !fenced[c.State] { // it has a fence exactly while it may run
				continue
			}
			// Of two that are launched at once, one must not see the other, or both would be refused.
			if c.State != LaunchPending || c.ID < but {
				unpromised -= footprint(c.MemoryMB)
			}
		}
		return err
	})
	return min(now, unpromised), err
}

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
