package domain

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"time"

	"libvirt.org/go/libvirt"
)

// Mount is one file system that a guest is to mount.
type Mount struct {
	Serial string // of its disk
	Label  string // of the file system, looked for on whole disks when none of that serial shows up in the guest in 6 s
	Path   string // absolute: made if it is not there
	Owner  string // user that gets the top directory, if the guest has such a user; "" leaves it
}

var (
	mountPathPattern = regexp.MustCompile(`^(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){1,8}$`)
	mountNamePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)
)

func (m Mount) validate(f *faults) {
	f.check(m.Serial != "" && serialPattern.MatchString(m.Serial), "serial %q is not 1 to 20 of [A-Za-z0-9_.-]", cut(m.Serial))
	f.check(m.Label == "" || mountNamePattern.MatchString(m.Label), "label %q is not up to 32 of [A-Za-z0-9_.-]", cut(m.Label))
	f.check(mountPathPattern.MatchString(m.Path) && path.Clean(m.Path) == m.Path, "path %q is not a plain absolute path of [A-Za-z0-9_.-]", cut(m.Path))
	f.check(m.Owner == "" || mountNamePattern.MatchString(m.Owner), "owner %q is not up to 32 of [A-Za-z0-9_.-]", cut(m.Owner))
}

// mountScript is constant; what it works on are its arguments: serial, label, path, owner. It needs nothing but a
// shell, mount, mkdir, readlink, chown and id; a guest with udev has the disk under by-id, any has its serial in /sys. A
// guest that mounts the disk by itself, before or meanwhile, is content; another file system in its place is not. Labels
// are the last resort, when a disk that was just plugged in has had its time, and of whole disks alone: a partition of
// the first disk can bear any. The codes that it ends with are in mountFaults.
const mountScript = `set -u
serial=$1 label=$2 path=$3 owner=$4
mounted() {
	there=
	while read -r from at _; do [ "$at" = "$path" ] && there=$from; done </proc/mounts
	[ -n "$there" ]
}
find_disk() {
	disk=/dev/disk/by-id/virtio-$serial
	[ -b "$disk" ] && return 0
	for at in /sys/block/*/serial; do
		[ -r "$at" ] && [ "$(cat "$at")" = "$serial" ] || continue
		at=${at%/serial}
		disk=/dev/${at##*/}
		[ -b "$disk" ] && return 0
	done
	[ -n "$label" ] && [ $tries -ge 6 ] || return 1
	disk=/dev/disk/by-label/$label
	[ -b "$disk" ] || disk=$(findfs "LABEL=$label" 2>/dev/null) || return 1
	disk=$(readlink -f "$disk")
	[ -b "$disk" ] && [ -d "/sys/block/${disk##*/}" ]
}
tries=0
until find_disk; do
	tries=$((tries + 1))
	[ $tries -lt 8 ] || exit 10
	sleep 1
done
mkdir -p "$path" || exit 11
path=$(readlink -f "$path")
if ! mounted; then
	mount -o nosuid,nodev "$disk" "$path" || mounted || exit 12
	mounted
fi
[ "$(readlink -f "$there")" = "$(readlink -f "$disk")" ] || exit 14
if [ -n "$owner" ] && id -u "$owner" >/dev/null 2>&1; then
	chown "$owner:$(id -g "$owner")" "$path" || exit 13
fi
exit 0
`

// mountFaults are the script's ends but success.
var mountFaults = map[int]string{
	10: "the guest has no such disk", 11: "the directory cannot be made", 12: "the disk cannot be mounted",
	13: "the directory cannot be given to its owner", 14: "something else is mounted there",
}

const (
	mountPatience = 30 * time.Second       // for one mount, with the guest's replay of a journal
	mountPoll     = 200 * time.Millisecond // how often the guest is asked whether it has done it
	maxMounts     = 8
)

// GuestMount asks the guest to mount file systems, each with nosuid and nodev, through its agent's guest-exec. A disk
// that is mounted at its path already, by the guest itself or by an earlier call, is left as it is. Nothing that the guest
// prints is read. It tries each, and reports all that failed. A nil error is the guest's word, no more.
// ErrUnresponsive: no agent, or no answer in time; then the rest is not tried. ErrRefused: the guest will not or
// cannot. ErrConflict: the domain does not run.
func (h *Host) GuestMount(ctx context.Context, id ID, mounts []Mount) error {
	var f faults
	f.check(len(mounts) <= maxMounts, "%d mounts, at most %d", len(mounts), maxMounts)
	for _, m := range mounts {
		m.validate(&f)
	}
	if err := f.err("mount in " + string(id)); err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		err := h.mountOne(ctx, id, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Path, err))
		}
		if err != nil && !errors.Is(err, ErrRefused) {
			break
		}
	}
	return errors.Join(errs...)
}

func (h *Host) mountOne(ctx context.Context, id ID, m Mount) error {
	args := map[string]any{
		"path": "/bin/sh", "arg": []string{"-c", mountScript, "mount", m.Serial, m.Label, m.Path, m.Owner},
		"env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, "capture-output": false,
	}
	var started struct {
		PID *int64 `json:"pid"`
	}
	if err := h.agent(ctx, id, askExec, args, &started); err != nil {
		return err
	}
	if started.PID == nil {
		return fmt.Errorf("domain: %s of %s: %w: the result is not what was asked for", askExec.command, id, ErrUnresponsive)
	}
	limit := time.Now().Add(mountPatience)
	for {
		var status struct {
			Exited   *bool `json:"exited"`
			ExitCode *int  `json:"exitcode"`
		}
		err := h.agent(ctx, id, askStatus, map[string]int64{"pid": *started.PID}, &status)
		switch {
		case err != nil:
			return err
		case status.Exited == nil:
			return fmt.Errorf("domain: %s of %s: %w: the result is not what was asked for", askStatus.command, id, ErrUnresponsive)
		case *status.Exited:
			return mountResult(id, status.ExitCode)
		case time.Now().After(limit):
			return fmt.Errorf("domain: mount in %s: %w: not done after %v", id, ErrUnresponsive, mountPatience)
		case !pause(ctx, mountPoll):
			return wrap("mount in "+string(id), ctx.Err())
		}
	}
}

func mountResult(id ID, code *int) error {
	if code == nil {
		return fmt.Errorf("domain: mount in %s: %w: the shell was killed", id, ErrRefused)
	}
	if *code == 0 {
		return nil
	}
	why, ok := mountFaults[*code]
	if !ok {
		why = fmt.Sprintf("the shell ended with %d", *code)
	}
	return fmt.Errorf("domain: mount in %s: %w: %s", id, ErrRefused, why)
}

// fsinfo is what is read of guest-get-fsinfo.
type fsinfo struct {
	Mountpoint string `json:"mountpoint"`
	Disk       []struct {
		Serial     string `json:"serial"`
		Controller struct {
			Domain, Bus, Slot, Function int64
		} `json:"pci-controller"`
	} `json:"disk"`
}

// GuestMounts asks the guest what it has mounted: mount points, and the serials of the disks behind them, or the
// target (vda) of a disk without a serial. Both are the guest's word; disks that the domain does not have, and
// mount points that cannot be printed, are left out. Errors are as GuestMount's.
func (h *Host) GuestMounts(ctx context.Context, id ID) (map[string]string, error) {
	var list []fsinfo
	if err := h.agent(ctx, id, askMounts, nil, &list); err != nil {
		return nil, err
	}
	disks, err := h.disksByAddress(ctx, id)
	if err != nil {
		return nil, err
	}
	mounts := map[string]string{}
	for _, fs := range list {
		if !isText(fs.Mountpoint) || !path.IsAbs(fs.Mountpoint) {
			continue
		}
		for _, d := range fs.Disk {
			c := d.Controller
			if name, ok := disks[pciAddress{c.Domain, c.Bus, c.Slot, c.Function}]; ok {
				mounts[fs.Mountpoint] = name
			}
		}
	}
	return mounts, nil
}

type pciAddress struct{ domain, bus, slot, function int64 }

// disksByAddress finds what each disk's place on the guest's bus is called on the host.
func (h *Host) disksByAddress(ctx context.Context, id ID) (map[pciAddress]string, error) {
	disks, err := call(ctx, h, "describe", h.lanes.quick, func(c *libvirt.Connect) (map[pciAddress]string, error) {
		d, _, err := lookup(c, id)
		if err != nil {
			return nil, err
		}
		defer d.Free()
		x, err := liveDomain(d, 0)
		if err != nil {
			return nil, err
		}
		found := map[pciAddress]string{}
		for _, disk := range x.Devices.Disks {
			name := disk.Serial
			if name == "" && disk.Target != nil {
				name = disk.Target.Dev
			}
			if a := disk.Address; a != nil && a.PCI != nil {
				found[pciAddress{int64(deref(a.PCI.Domain)), int64(deref(a.PCI.Bus)), int64(deref(a.PCI.Slot)), int64(deref(a.PCI.Function))}] = name
			}
		}
		return found, nil
	})
	return disks, wrap("mounts of "+string(id), err)
}

func deref(n *uint) uint {
	if n == nil {
		return 0
	}
	return *n
}
