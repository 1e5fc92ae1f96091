package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// TestSecureDaemonDies kills the daemon with -9 at the begin and at the end of every step of both ways, and starts it
// again: the operation is carried through, the guest lives, and P1 holds at every sampled instant.
func TestSecureDaemonDies(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "true")
	v.beacon()
	v.secure()
	v.maintenance()
	steps := v.steps()
	for name, late := range map[string]bool{"daemon killed as it begins": false, "daemon killed as it ends": true} {
		v.bear(steps, blow{name: name, late: late,
			strike: func(v *vault) { v.Kill() },
			heal: func(v *vault) {
				v.start()
				v.settle()
				if op := v.operations()[0]; op.State != "succeeded" {
					v.t.Errorf("%s was not carried through: %s: %s", op.Kind, op.Step, op.Cause)
				}
			},
		})
	}
	if v.status(v.id).Mode == "SECURE" {
		v.maintenance()
	}
	v.hears()
	v.clock()
}

// lasting are the steps in which libvirt or QEMU work for longer than a blink, or change what no journal knows of: there a
// blow falls into the midst of the work, or between its effect and the journal. At the end of the other steps it would find
// what the blow at the begin of the next one finds.
var lasting = map[string][]string{"enter": {"clean-point", "attach", "mount"}, "leave": {"destroy", "define", "restore", "resume"}}

// TestSecureLibvirtdDies kills libvirtd at every step of both ways, and within those that last, and starts it again.
func TestSecureLibvirtdDies(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "true")
	v.beacon()
	v.secure()
	v.maintenance()
	died := libvirtdDies
	v.bear(v.steps(), died)
	died.name, died.late = "libvirtd killed within the step", true
	v.bear(lasting, died)
}

var libvirtdDies = blow{name: "libvirtd killed",
	strike: func(v *vault) { testhost.KillLibvirtd(v.t) },
	heal: func(v *vault) {
		testhost.StartLibvirtd(v.t)
		v.ready()
	},
}

// TestSecureQEMUDies kills QEMU at every step of both ways at which there is one, and within those that last. The guest is
// not waited for: it dies as it boots, and mounts nothing.
func TestSecureQEMUDies(t *testing.T) {
	v := newVault(t, `secure.mount_wait = "1s"`, `secure.flush_wait = "1s"`)
	v.secure()
	v.maintenance()
	died := qemuDies
	v.bear(v.steps(), died)
	died.name, died.late = "QEMU killed within the step", true
	v.bear(lasting, died)
}

var qemuDies = blow{name: "QEMU killed",
	strike: func(v *vault) {
		if pid := qemu(v.t, v.id); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	},
	heal: func(*vault) {},
}

// TestSecureUndoDies lets an entry fail once its clean point is taken, for a volume that is gone, and kills the daemon,
// libvirtd and QEMU while that is taken back: as it begins, when the process is gone, and when the clean point is there again.
func TestSecureUndoDies(t *testing.T) {
	v := newVault(t, `secure.mount_wait = "1s"`, `secure.flush_wait = "1s"`)
	v.secure()
	v.maintenance()
	var before int
	moments := []struct {
		name string
		now  func() bool
	}{
		{"as it begins", func() bool { return true }},
		{"with no process", func() bool { return qemu(v.t, v.id) == 0 }},
		{"with the clean point back", func() bool { pid := qemu(v.t, v.id); return pid != 0 && pid != before }},
	}
	for _, b := range []blow{
		{name: "daemon killed", strike: func(v *vault) { v.Kill() }, heal: func(v *vault) { v.start() }},
		libvirtdDies, qemuDies,
	} {
		for _, m := range moments {
			if b.name == qemuDies.name && m.name == "with no process" {
				continue
			}
			v.run(b.name+" "+m.name, func() {
				before = qemu(v.t, v.id)
				path := v.volumeFile()
				spare := filepath.Join(v.dir, "spare")
				if err := os.Rename(path, spare); err != nil {
					v.t.Fatal(err)
				}
				asked := make(chan struct{})
				go func() {
					defer close(asked)
					_, _ = v.Ctl(v.t.Context(), "switch", v.id, "secure")
				}()
				met := v.undoing("enter", m.now, func() { b.strike(v) })
				<-asked
				b.heal(v)
				v.settle()
				if err := os.Rename(spare, path); err != nil {
					v.t.Fatal(err)
				}
				if !met {
					v.t.Fatal("the way back was over before the blow")
				}
				outcome := v.truth("enter")
				v.t.Log(outcome)
				if !strings.HasPrefix(outcome, "failed") {
					v.t.Error("it succeeded without a volume")
				}
				v.recovered()
				if v.status(v.id).Mode == "SECURE" { // held, and brought back to where it was
					v.maintenance()
				}
			})
		}
	}
}

// TestSecureDNSMasqDies kills the network's dnsmasq at every step of both ways: that is no reason for anything.
func TestSecureDNSMasqDies(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "true")
	v.beacon()
	v.secure()
	v.maintenance()
	v.bear(v.steps(), blow{name: "dnsmasq killed",
		strike: (*vault).killDNSMasq,
		heal: func(v *vault) {
			v.settle()
			if op := v.operations()[0]; op.State != "succeeded" {
				v.t.Errorf("%s failed: %s: %s", op.Kind, op.Step, op.Cause)
			}
			v.restartNetwork()
		},
	})
	if v.status(v.id).Mode == "SECURE" {
		v.maintenance()
	}
}

// killDNSMasq ends the network's dnsmasq, its helper included.
func (v *vault) killDNSMasq() {
	v.t.Helper()
	for pid := range strings.FieldsSeq(must(command(v.t, "pgrep", "-f", "dnsmasq.*capsules.conf"))(v.t)) {
		if n, err := strconv.Atoi(pid); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// restartNetwork is how an operator gets a new dnsmasq: libvirt starts one when a lease changes. The lease may be there
// from the last time, unless the daemon, who knows of no such capsule, has dropped it.
func (v *vault) restartNetwork() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	lease := func(verb string) ([]byte, error) {
		return exec.CommandContext(ctx, "virsh", "-q", "-c", "qemu:///system", "net-update", "capsules", verb, "ip-dhcp-host",
			"<host mac='52:54:00:00:00:01' name='nobody' ip='192.168.53.250'/>", "--live").CombinedOutput()
	}
	_, _ = lease("delete")
	err := rig.Until(ctx, func() error {
		if out, err := lease("add"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		v.t.Error(err)
	}
}

// TestSecureRestorerFails stops and ends the program that the rules are changed with, at the steps that change them. What is
// under way is carried through or taken back, and is closed meanwhile.
func TestSecureRestorerFails(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "true")
	v.beacon()
	v.secure()
	v.maintenance()
	for _, row := range []struct {
		name   string
		signal syscall.Signal
	}{{"iptables-restore hangs", syscall.SIGSTOP}, {"iptables-restore is killed", syscall.SIGKILL}} { // it is started again when it is needed
		hits := 0
		v.bear(map[string][]string{"enter": {"fence", "policy"}, "leave": {"fence", "policy"}}, blow{name: row.name,
			strike: func(v *vault) {
				out, _ := exec.Command("pgrep", "-P", strconv.Itoa(v.Pid()), "-f", "tables-restore").Output()
				pids := strings.Fields(string(out))
				if len(pids) == 0 {
					v.t.Log("it is not there: it was ended by the blow before, and not needed since")
				}
				for _, pid := range pids {
					if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, row.signal) == nil {
						hits++
					}
				}
			},
			heal: func(v *vault) { v.settle() },
		})
		if hits == 0 {
			v.t.Errorf("%s: it was never there", row.name)
		}
	}
}
