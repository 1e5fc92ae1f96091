package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
)

// Doctor looks for what makes the host unfit. For administrators.
func (d *Daemon) Doctor(ctx context.Context, c Caller) ([]Finding, error) {
	if !c.admin() {
		return nil, errorf(Forbidden, "only an administrator asks the doctor")
	}
	list := []Finding{d.checkLibvirt(), d.checkRules(ctx)}
	conflicts, err := d.fences.Conflicts(ctx)
	switch {
	case err != nil:
		list = append(list, Finding{Name: "other firewalls", Detail: "not known: " + err.Error(), Advice: "look at iptables and nft by hand"})
	case len(conflicts) == 0:
		list = append(list, Finding{Name: "other firewalls", OK: true, Detail: "none in the way"})
	}
	for _, k := range conflicts {
		list = append(list, Finding{Name: k.Name, OK: harmless[k.Name], Detail: k.Detail, Advice: k.Advice})
	}
	return append(list, checkSwap(), checkSerial(), d.checkRoom(ctx), d.checkChain(ctx), d.checkHeldCapsules(ctx)), nil
}

// harmless are things of other programs that are worth a line and are no reason to act: the fence does not mind them.
var harmless = map[string]bool{"br_netfilter": true, "host-setting": true}

func (d *Daemon) checkLibvirt() Finding {
	if r := d.Ready(); !r.Ready {
		return Finding{Name: "host", Detail: strings.Join(r.Reasons, "; "), Advice: "see systemctl status libvirtd and the daemon's log"}
	}
	return Finding{Name: "host", OK: true, Detail: "converged; libvirt answers"}
}

func (d *Daemon) checkRules(ctx context.Context) Finding {
	drift, err := d.fences.Verify(ctx)
	switch {
	case err != nil:
		return Finding{Name: "firewall", Detail: "not known: " + err.Error(), Advice: "see the daemon's log"}
	case len(drift) > 0:
		return Finding{Name: "firewall", Detail: clipList(drift), Advice: "somebody changes rules or links; they are restored within a second"}
	}
	return Finding{Name: "firewall", OK: true, Detail: "rules, links and kernel settings are as they should be"}
}

// checkSwap warns of swap: a guest's memory may land there and stay (isolation contract, row 25).
func checkSwap() Finding {
	f, err := os.Open("/proc/swaps")
	if err != nil {
		return Finding{Name: "swap", Detail: "not known: " + err.Error(), Advice: "look at swapon --show"}
	}
	defer f.Close()
	var devices []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, _, _ := strings.Cut(s.Text(), " "); strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "/dev/zram") {
			devices = append(devices, name)
		}
	}
	if len(devices) > 0 {
		return Finding{Name: "swap", Detail: strings.Join(devices, ", ") + " may keep what guests had in memory",
			Advice: "encrypt it with a key that is made at boot (crypttab(5), option swap), or take it away"}
	}
	return Finding{Name: "swap", OK: true, Detail: "none that outlives a boot"}
}

// checkSerial warns of a serial log that nothing bounds: a guest could fill the host's disk with it (isolation contract,
// row 17).
func checkSerial() Finding {
	const name = "serial logs"
	size, err := domain.SerialCap("/etc/libvirt")
	switch {
	case err != nil:
		return Finding{Name: name, Detail: "not known: " + err.Error(), Advice: "look at stdio_handler in qemu.conf and max_size in virtlogd.conf"}
	case size == 0:
		return Finding{Name: name, Detail: "nothing bounds them: a guest can fill the disk", Advice: "have virtlogd write them (stdio_handler = \"logd\" in qemu.conf) and roll them over (max_size in virtlogd.conf)"}
	}
	return Finding{Name: name, OK: true, Detail: fmt.Sprintf("rolled over by virtlogd at %d KiB", size>>10)}
}

func (d *Daemon) checkRoom(ctx context.Context) Finding {
	free, err := d.files.FreeBytes(ctx, 0)
	if err != nil {
		return Finding{Name: "disk", Detail: "not known: " + err.Error(), Advice: "look at df"}
	}
	f := Finding{Name: "disk", OK: free >= d.opt.ReserveBytes, Detail: fmt.Sprintf("%d MB free", free>>20)}
	if !f.OK {
		f.Advice = fmt.Sprintf("make room: %d MB are kept in reserve, and secure mode needs as much as a capsule has memory", d.opt.ReserveBytes>>20)
	}
	return f
}

func (d *Daemon) checkChain(ctx context.Context) Finding {
	var length int64
	var head, fault string
	err := d.store.View(ctx, func(tx *store.Tx) (err error) { length, head, fault, err = tx.CheckSwitches(); return err })
	switch {
	case err != nil:
		return Finding{Name: "records of switches", Detail: "not known: " + err.Error(), Advice: "see the daemon's log"}
	case fault != "":
		return Finding{Name: "records of switches", Detail: fault, Advice: "somebody changed capsuled.db: compare it with a backup, and the hashes with the log"}
	}
	detail := "none yet"
	if length > 0 {
		detail = fmt.Sprintf("%d, the newest is %.12s", length, head)
	}
	return Finding{Name: "records of switches", OK: true, Detail: detail}
}

func (d *Daemon) checkHeldCapsules(ctx context.Context) Finding {
	var ids []string
	err := d.store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Capsules()
		for _, c := range all {
			if held(c) {
				ids = append(ids, c.ID)
			}
		}
		return err
	})
	switch {
	case err != nil:
		return Finding{Name: "held capsules", Detail: "not known: " + err.Error(), Advice: "see the daemon's log"}
	case len(ids) > 0:
		return Finding{Name: "held capsules", Detail: strings.Join(ids, ", "), Advice: "capsulectl prove says why; then resume, stop or delete"}
	}
	return Finding{Name: "held capsules", OK: true, Detail: "none"}
}
