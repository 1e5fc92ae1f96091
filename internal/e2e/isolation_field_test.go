package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// field is a place to attack in: a domain, its neighbour, and the names of all around them.
type field struct {
	names *strings.Replacer            // what stands for the names in braces
	roles map[string]string            // sighting -> role
	run   map[string]func(run) probing // who sends -> how its probe is run
}

// run is one run of the probe.
type run struct{ mark, script string }

// probing is what a probe said: attack -> what came of it.
type probing map[string]string

// probeProgram builds the probe.
func probeProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", path, "../probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v: %s", err, out)
	}
	return path
}

// probed reads what a probe said, in which every attack of the script must be.
func probed(t *testing.T, r run, out string, err error) probing {
	t.Helper()
	if err != nil {
		t.Fatalf("probe: %v: %s", err, out)
	}
	said := probing{}
	for line := range strings.Lines(out) {
		name, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		said[name] = what
	}
	for line := range strings.Lines(r.script) {
		if name, _, ok := strings.Cut(line, " "); ok && said[name] == "" {
			t.Fatalf("probe: nothing came of %s: %s", name, out)
		}
	}
	return said
}

// local runs the probe on the host, in one of its network namespaces.
func local(t *testing.T, program, ns, card string) func(run) probing {
	return func(r run) probing {
		t.Helper()
		args := []string{program, "-i", card, "-mark", r.mark}
		if ns != "" {
			args = append([]string{"ip", "netns", "exec", ns}, args...)
		}
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(r.script)
		out, err := cmd.CombinedOutput()
		return probed(t, r, string(out), err)
	}
}

// inGuest runs the probe in a guest, which the test asks to by the guest agent: that channel is the tester's own, and
// works in every mode.
func inGuest(t *testing.T, domain string) func(run) probing {
	return func(r run) probing {
		t.Helper()
		out, err := guestExec(t, domain, r.script, probePath, "-mark", r.mark)
		return probed(t, r, out, err)
	}
}

const probePath = "/root/probe" // in guests

// agent sends one command to the agent of a domain's guest as soon as it answers.
func agent(t *testing.T, domain string, command string, arguments any, reply any) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out []byte
	if err := rig.Until(ctx, func() error {
		out, err = exec.CommandContext(ctx, "virsh", "-q", "-c", "qemu:///system", "qemu-agent-command", "--timeout", "60", domain, string(text)).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("agent of %s: %s: %w: %s", domain, command, err, bytes.TrimSpace(out))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var whole struct{ Return json.RawMessage }
	if err := json.Unmarshal(out, &whole); err != nil {
		t.Fatalf("agent of %s: %v: %s", domain, err, out)
	}
	if reply != nil {
		if err := json.Unmarshal(whole.Return, reply); err != nil {
			t.Fatalf("agent of %s: %v: %s", domain, err, out)
		}
	}
}

// guestStart starts a program in a guest and leaves it to itself.
func guestStart(t *testing.T, domain, in string, args ...string) (pid int) {
	t.Helper()
	var started struct{ PID int }
	agent(t, domain, "guest-exec", map[string]any{
		"path": args[0], "arg": args[1:], "capture-output": true, "input-data": base64.StdEncoding.EncodeToString([]byte(in)),
	}, &started)
	return started.PID
}

// guestExec runs a program in a guest to its end.
func guestExec(t *testing.T, domain, in string, args ...string) (string, error) {
	t.Helper()
	pid := guestStart(t, domain, in, args...)
	var status struct {
		Exited   bool
		ExitCode int
		Out      []byte `json:"out-data"`
		Err      []byte `json:"err-data"`
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		agent(t, domain, "guest-exec-status", map[string]int{"pid": pid}, &status)
		if !status.Exited {
			return fmt.Errorf("%v still runs", args)
		}
		return nil
	}); err != nil {
		return "", err
	}
	if status.ExitCode != 0 {
		return string(status.Out), fmt.Errorf("%v: exit code %d: %s", args, status.ExitCode, status.Err)
	}
	return strings.TrimSpace(string(status.Out)), nil
}

// unfenced is a field beside the fenced one: two network namespaces on a bridge that belongs to nobody, on the same
// host, with the same world behind it. What does not arrive there proves nothing when it does not arrive elsewhere.
func unfenced(t *testing.T, program string) *field {
	t.Helper()
	const bad, good = "rogue", "next"
	// Where bridges ask iptables, pieces are kept until they are whole, and the control would be a fence.
	const asks = "net.bridge.bridge-nf-call-iptables"
	if was, err := command(t, "sysctl", "-n", asks); err == nil {
		must(command(t, "sysctl", "-q", "-w", asks+"=0"))(t)
		t.Cleanup(func() { _ = exec.Command("sysctl", "-q", "-w", asks+"="+was).Run() })
	}
	commands := [][]string{
		{"ip", "link", "add", "plain0", "type", "bridge", "mcast_snooping", "0"},
		// LLDP and 802.1X go no further than a port, but a bridge can be told to pass them on.
		{"ip", "link", "set", "plain0", "type", "bridge", "group_fwd_mask", "0x4008"},
		{"ip", "addr", "add", "192.168.77.1/24", "dev", "plain0"}, {"ip", "link", "set", "plain0", "up"},
		{"iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.168.77.0/24", "-o", testhost.Uplink, "-j", "MASQUERADE"},
		{"iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-d", testhost.HostAddr, "--dport", "2222", "-j", "DNAT", "--to", "192.168.77.2:22"},
	}
	ends := [][]string{
		{"ip", "link", "del", "plain0"},
		slices.Replace(slices.Clone(commands[4]), 3, 4, "-D"), slices.Replace(slices.Clone(commands[5]), 3, 4, "-D"),
	}
	for i, ns := range []string{bad, good} {
		port := ns + "-p"
		commands = append(commands, []string{"ip", "netns", "add", ns},
			[]string{"ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"ip", "link", "set", port, "master", "plain0"}, []string{"ip", "link", "set", port, "up"},
			[]string{"ip", "-n", ns, "addr", "add", fmt.Sprintf("192.168.77.%d/24", 2+i), "dev", "eth0"},
			[]string{"ip", "-n", ns, "link", "set", "lo", "up"}, []string{"ip", "-n", ns, "link", "set", "eth0", "up"},
			[]string{"ip", "-n", ns, "route", "add", "default", "via", "192.168.77.1"})
		ends = append(ends, []string{"ip", "netns", "del", ns})
	}
	// False ARP and false addresses are among the attacks: nobody here learns from them.
	for i, ns := range []string{bad, good} {
		commands = append(commands, []string{"ip", "link", "set", ns + "-p", "type", "bridge_slave", "learning", "off"},
			[]string{"sh", "-c", fmt.Sprintf("ip neigh replace 192.168.77.%d dev plain0 nud permanent lladdr $(ip netns exec %s cat /sys/class/net/eth0/address)", 2+i, ns)},
			[]string{"sh", "-c", "ip -n " + ns + " neigh replace 192.168.77.1 dev eth0 nud permanent lladdr $(cat /sys/class/net/plain0/address)"})
	}
	for _, c := range commands {
		must(command(t, c[0], c[1:]...))(t)
	}
	t.Cleanup(func() {
		for _, c := range ends {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", c, err, out)
			}
		}
	})
	greeter(t, "", "192.168.77.1:53")
	mac := func(ns string) string {
		return must(command(t, "ip", "netns", "exec", ns, "cat", "/sys/class/net/eth0/address"))(t)
	}
	return &field{
		names: replacer(t, "plain0", "192.168.77.1", "192.168.77.2", mac(bad), "192.168.77.3", mac(good), "2222"),
		roles: roles(bad+"-p", good+"-p", "plain0"),
		run: map[string]func(run) probing{
			"": local(t, program, bad, "eth0"), "next": local(t, program, good, "eth0"),
			"world": local(t, program, "world", testhost.WorldUplink), "host": local(t, program, "", "plain0"),
		},
	}
}

// fenced is the field of two capsules.
func (h *host) fenced(program, a, b string) *field {
	h.t.Helper()
	one, two := "cap-"+a[:8], "cap-"+b[:8]
	ip, mac := h.lease(one)
	next, nextmac := h.lease(two)
	return &field{
		names: replacer(h.t, "capsbr0", "192.168.53.1", ip, mac, next, nextmac, fmt.Sprint(h.status(a).SSHPort)),
		roles: roles(one, two, "capsbr0"),
		run: map[string]func(run) probing{
			"": inGuest(h.t, one), "next": inGuest(h.t, two),
			"world": local(h.t, program, "world", testhost.WorldUplink), "host": local(h.t, program, "", "capsbr0"),
		},
	}
}

// lease is the address of a domain, and its card's.
func (h *host) lease(domain string) (ip, mac string) {
	h.t.Helper()
	for line := range strings.Lines(virsh(h.t, "net-dumpxml", "capsules")) { // <host mac='…' name='…' ip='…'/>
		if f := strings.Split(line, "'"); len(f) > 5 && f[3] == domain {
			return f[5], f[1]
		}
	}
	h.t.Fatalf("%s has no lease", domain)
	return "", ""
}

func replacer(t *testing.T, bridge, gw, self, selfmac, next, nextmac, ssh string) *strings.Replacer {
	t.Helper()
	mac := func(card string) string { return must(command(t, "cat", "/sys/class/net/"+card+"/address"))(t) }
	return strings.NewReplacer("{gw}", gw, "{gwmac}", mac(bridge), "{self}", self, "{selfmac}", selfmac,
		"{next}", next, "{nextmac}", nextmac, "{ssh}", ssh, "{upmac}", mac(testhost.Uplink),
		"{world}", testhost.WorldAddr, "{host}", testhost.HostAddr)
}

func roles(port, nextPort, bridgeName string) map[string]string {
	return map[string]string{
		port + " in": left, port + " out": back, nextPort + " out": neighbour, bridgeName + " in": bridge, bridgeName + " out": reply,
		"service": service, testhost.Uplink + " out": uplink, "world:" + testhost.WorldUplink + " in": world,
	}
}
