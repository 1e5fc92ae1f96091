package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// vault is a capsule that goes to secure mode and back, and a sampler beside all that it goes through.
type vault struct {
	*host
	t       *testing.T
	id      string
	domain  string
	address netip.Addr
	sampler *rig.Sampler
	judge   func(rig.Findings) // what is made of the sampler's findings
}

// newVault makes a capsule on a host of its own, which is launched and not waited for.
func newVault(t *testing.T, settings ...string) *vault {
	t.Helper()
	return vaultOn(t, startHost(t, append([]string{`secure.mount_wait = "5s"`, `secure.verify_every = "1s"`}, settings...)...))
}

// vaultOn makes a capsule on a host that there is, and samples it to the end of the test.
func vaultOn(t *testing.T, h *host) *vault {
	t.Helper()
	id := h.capsule(h.image())
	v := &vault{host: h, t: t, id: id, domain: "cap-" + id[:8]}
	for line := range strings.Lines(virsh(t, "net-dumpxml", "capsules")) { // <host mac='…' name='…' ip='…'/>
		if f := strings.Split(line, "'"); len(f) > 5 && f[3] == v.domain {
			v.address = netip.MustParseAddr(f[5])
		}
	}
	if !v.address.IsValid() {
		t.Fatalf("%s has no lease", v.domain)
	}
	v.sample(v.safe)
	t.Cleanup(func() { v.judged() })
	h.ctl("launch", "--wait", id)
	return v
}

// sample begins to watch the capsule, and returns once it does.
func (v *vault) sample(judge func(rig.Findings)) {
	v.t.Helper()
	s, err := rig.NewSampler(rig.VolumesOf(v.dir, v.id, v.address))
	if err != nil {
		v.t.Fatal(err)
	}
	v.sampler, v.judge = s, judge
	v.until("a first look", func() error {
		if what, looks := s.Present(); looks == 0 {
			return fmt.Errorf("there was none: %s", what)
		}
		return nil
	})
}

// judged ends the sampling.
func (v *vault) judged() {
	v.t.Helper()
	f := v.sampler.Stop()
	v.t.Logf("sampler: %d looks, %d of them at data, %v between two at most, %d beacons", f.Looks, f.Attached, f.Longest, f.Beacons)
	if len(f.Blind) > 0 || f.Looks == 0 {
		v.t.Errorf("sampler: it could not look: %s", few(f.Blind))
	}
	v.judge(f)
}

// next judges what the sampler has seen so far, and what it sees from now on by another measure.
func (v *vault) next(judge func(rig.Findings)) {
	v.t.Helper()
	v.judged()
	v.sample(judge)
}

// anything is no judgement.
func anything(rig.Findings) {}

// safe wants that nothing was seen that breaks P1.
func (v *vault) safe(f rig.Findings) {
	v.t.Helper()
	if len(f.Open)+len(f.Bare)+len(f.Loose) > 0 {
		v.t.Errorf("sampler: P1 is broken\nopen: %s\nno layer: %s\nbeacons: %s\nall that changed:\n%s",
			few(f.Open), few(f.Bare), few(f.Loose), strings.Join(f.Told, "\n"))
	}
}

// run is a part of a test, which fails on its own.
func (v *vault) run(name string, do func()) {
	v.t.Helper()
	whole := v.t
	ok := whole.Run(name, func(t *testing.T) {
		v.t, v.host.t = t, t
		do()
	})
	if v.t, v.host.t = whole, whole; !ok {
		whole.FailNow() // what comes after it would begin somewhere else
	}
}

// fences are what the kernel has for the capsule now.
func (v *vault) fences() rig.Fences {
	v.t.Helper()
	f, err := rig.ReadFences(v.t.Context(), v.domain, v.address)
	if err != nil {
		v.t.Fatal(err)
	}
	return f
}

// few are the first of many lines.
func few(lines []string) string {
	const most = 5
	if len(lines) > most {
		return fmt.Sprintf("%s ... %d in all", strings.Join(lines[:most], "\n  "), len(lines))
	}
	return strings.Join(lines, "\n  ")
}

// beacon has the guest ping the outside world for as long as it runs, and waits until that arrives: in one flow that
// goes on, once a second, and in ten new ones a second.
func (v *vault) beacon() {
	v.t.Helper()
	ping := "ping -q -s 40 -p " + rig.Beacon + " " + testhost.WorldAddr
	v.ssh(v.id, fmt.Sprintf("(%s & while :; do %s -c 1 -W 1 & usleep 100000; done) >/dev/null 2>&1 </dev/null &", ping, ping))
	v.hears()
}

// hears waits for a beacon that arrives from now on.
func (v *vault) hears() {
	v.t.Helper()
	before := v.sampler.Heard()
	v.until("a beacon", func() error {
		if v.sampler.Heard() == before {
			return fmt.Errorf("none has come since the first %d", before)
		}
		return nil
	})
}

// until tries again until what is waited for is there.
func (v *vault) until(what string, try func() error) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, try); err != nil {
		v.t.Fatalf("%s: %v", what, err)
	}
}

// secure and maintenance switch, and want it to succeed.
func (v *vault) secure()      { v.t.Helper(); v.switchTo("secure") }
func (v *vault) maintenance() { v.t.Helper(); v.switchTo("maintenance") }

func (v *vault) switchTo(mode string) {
	v.t.Helper()
	v.ctl("switch", "--wait", v.id, mode)
	v.is("RUNNING", strings.ToUpper(mode))
}

// is wants the capsule in a state and a mode now.
func (v *vault) is(state, mode string) wire.Status {
	v.t.Helper()
	st := v.status(v.id)
	if st.State != state || !strings.EqualFold(st.Mode, mode) {
		v.t.Fatalf("it is %s in mode %s (%s), and should be %s in mode %s", st.State, st.Mode, said(st.Cause), state, mode)
	}
	return st
}

// refused wants capsulectl to fail with an exit status, and to say some words.
func (v *vault) refused(status int, words string, args ...string) {
	v.t.Helper()
	out, err := v.Ctl(v.t.Context(), args...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != status || !strings.Contains(out+err.Error(), words) {
		v.t.Errorf("capsulectl %v: %v, and should end with status %d and speak of %q\n%s", args, err, status, words, out)
	}
}

// forgotten wants nothing of secure mode on the host's disk.
func (v *vault) forgotten() {
	v.t.Helper()
	for _, name := range []string{"overlay.qcow2", "clean.ram"} {
		if _, err := os.Lstat(filepath.Join(v.dir, "capsules", v.id, name)); !errors.Is(err, fs.ErrNotExist) {
			v.t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func said(cause *string) string {
	if cause == nil {
		return "no cause"
	}
	return *cause
}

// proved wants the capsule to be proved safe as it is.
func (v *vault) proved() {
	v.t.Helper()
	if out, err := v.Ctl(v.t.Context(), "prove", v.id); err != nil {
		v.t.Fatalf("prove: %v\n%s", err, out)
	}
}

// inside runs a shell command in the guest by its agent, in any mode: the tester's own channel.
func (v *vault) inside(command string) string {
	v.t.Helper()
	var out string
	v.until("guest agent", func() (err error) { out, err = v.agentShell(command); return err })
	return out
}

// agentShell is one try of inside.
func (v *vault) agentShell(command string) (string, error) {
	var started struct{ PID int }
	err := v.agentCall("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", command}, "capture-output": true}, &started)
	if err != nil {
		return "", err
	}
	var status struct {
		Exited   bool
		ExitCode int
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	err = rig.Until(ctx, func() error {
		if err := v.agentCall("guest-exec-status", map[string]int{"pid": started.PID}, &status); err != nil {
			return err
		}
		if !status.Exited {
			return fmt.Errorf("%q still runs", command)
		}
		return nil
	})
	out, _ := base64.StdEncoding.DecodeString(status.Out)
	if errs, _ := base64.StdEncoding.DecodeString(status.Err); err == nil && status.ExitCode != 0 {
		err = rig.Final(fmt.Errorf("%q: exit code %d: %s%s", command, status.ExitCode, out, errs))
	}
	return strings.TrimSpace(string(out)), err
}

func (v *vault) agentCall(command string, arguments, reply any) error {
	text, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if err != nil {
		return rig.Final(err)
	}
	out, err := exec.CommandContext(v.t.Context(), "virsh", "-q", "-c", "qemu:///system",
		"qemu-agent-command", "--timeout", "30", v.domain, string(text)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("agent: %s: %w: %s", command, err, out)
	}
	return json.Unmarshal(out, &struct{ Return any }{reply})
}
