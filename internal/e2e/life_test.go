package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// TestLife walks the whole road with both kinds of images: over TCP as a researcher, and with capsulectl.
func TestLife(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		t.Run(format, func(t *testing.T) {
			h := startHost(t)
			file := map[string]string{"qcow2": h.guest.Qcow2, "raw": h.guest.Raw}[format]
			image := h.ctl("image", "add", "--name", "guest", "--public", file)
			alice := as(t, "alice")

			made := h.post(alice, "/sloan-ws/createvm", url.Values{
				"imageid": {image}, "loginusername": {"dcuser"}, "loginpassword": {"secret"}, "memory": {"256"}, "title": {"Wörter; $(reboot) `id` | &"},
			})
			var created wire.Created
			if err := json.Unmarshal([]byte(made.body), &created); err != nil {
				t.Fatal(made)
			}
			id := created.VMID
			h.wait(made)
			h.wait(h.post(alice, "/launchvm", url.Values{"vmid": {id}}))
			shown := h.post(alice, "/show", url.Values{"vmid": {id}})
			var list wire.StatusList
			if err := json.Unmarshal([]byte(shown.body), &list); err != nil || len(list.Status) != 1 {
				t.Fatal(shown)
			}
			st := list.Status[0]
			if st.State != "RUNNING" || st.Mode != "MAINTENANCE" || st.Observed != "running" || st.Role != "OWNER_CONTROLLER" ||
				st.PublicIP != testhost.HostAddr || *st.Title != "Wörter; $(reboot) `id` | &" || st.VolumeSize != 1 || st.VNCLoginPassword != "secret" {
				t.Errorf("show: %s", shown.body)
			}

			h.ssh(id, "echo kept > /root/mark; sync")
			if got := h.ssh(id, "ls /dev/disk/by-label 2>/dev/null; cat /proc/partitions"); strings.Contains(got, "secure") || strings.Contains(got, "vdb") {
				t.Errorf("a volume can be seen in maintenance mode: %s", got)
			}
			h.wait(h.post(alice, "/stopvm", url.Values{"vmid": {id}}))
			if st := h.status(id); st.State != "SHUTDOWN" || st.Mode != "NOT_DEFINED" || st.Observed != "off" {
				t.Errorf("after stop: %+v", st)
			}
			// The image goes while a capsule stands on it: no clone is broken by that.
			h.ctl("image", "delete", "--yes", image)
			h.wait(h.post(alice, "/launchvm", url.Values{"vmid": {id}}))
			if got := h.ssh(id, "cat /root/mark"); got != "kept" {
				t.Errorf("what was written before the stop reads %q", got)
			}
			h.wait(h.post(alice, "/deletevm", url.Values{"vmid": {id}}))
			if a := h.post(alice, "/show", url.Values{"vmid": {id}}); a.status != 400 {
				t.Errorf("a deleted capsule is shown: %+v", a)
			}
			left, err := filepath.Glob(filepath.Join(h.dir, "images", "*.*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left of the image: %v, %v", left, err)
			}
		})
	}
}

// TestRestartLeavesCapsulesAlone restarts and kills the daemon under a running capsule: the same QEMU process, the
// same rules, the same ssh session.
func TestRestartLeavesCapsulesAlone(t *testing.T) {
	h := startHost(t)
	id := h.capsule(h.image())
	h.ctl("launch", "--wait", id)
	h.ssh(id, "true")
	pid, rules := qemu(t, id), ruleset(t)
	for name, end := range map[string]func(){
		"stop": func() {
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
		},
		"kill": h.Kill,
	} {
		end()
		if got := ruleset(t); got != rules {
			t.Errorf("%s changed the rules:\n%s\n--- from\n%s", name, got, rules)
		}
		h.start()
		if got := ruleset(t); got != rules {
			t.Errorf("start after %s changed the rules:\n%s\n--- from\n%s", name, got, rules)
		}
		if got := qemu(t, id); got != pid || pid == 0 {
			t.Errorf("after %s QEMU is process %d, was %d", name, got, pid)
		}
		if st := h.status(id); st.State != "RUNNING" || st.Observed != "running" {
			t.Errorf("after %s: %+v", name, st)
		}
		h.ssh(id, "true")
	}
}

// ruleset is what the kernel has, without counters.
func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestBoundaries looks from inside a capsule at what it must not reach.
func TestBoundaries(t *testing.T) {
	h := startHost(t)
	image := h.image()
	first, second := h.capsule(image), h.capsule(image)
	h.ctl("launch", "--wait", first)
	h.ssh(first, "true")
	h.ctl("launch", "--wait", second)
	h.ssh(second, "true")
	address := func(id string) string {
		return h.ssh(id, "ip -4 -o addr show | grep -o '192.168.53.[0-9]*' | grep -v 255 | head -1")
	}
	peer := address(second)
	// A service of the host on all addresses, as an operator's own might be.
	service := exec.Command("python3", "-m", "http.server", "18099", "--directory", t.TempDir())
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Process.Kill(); _ = service.Wait() }()
	world := testhost.World(t.Context(), "python3", "-m", "http.server", "18099", "--directory", t.TempDir())
	if err := world.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = world.Process.Kill(); _ = world.Wait() }()
	reach := func(addr, port string) string {
		return h.ssh(first, "nc -w 3 "+addr+" "+port+" </dev/null >/dev/null 2>&1 && echo open || echo closed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error { // positive control: what is allowed is open
		if got := reach(testhost.WorldAddr, "18099"); got != "open" {
			return errors.New("a capsule does not reach the world")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string][2]string{
		"a service of the host on the bridge":  {"192.168.53.1", "18099"},
		"a service of the host by its address": {testhost.HostAddr, "18099"},
		"the other capsule":                    {peer, "22"},
		"the other capsule's forwarded port":   {testhost.HostAddr, "16002"},
		"the API":                              {"192.168.53.1", "18080"},
	} {
		if got := reach(at[0], at[1]); got != "closed" {
			t.Errorf("a capsule reaches %s: %s", what, got)
		}
	}
	if got := h.ssh(first, "ping -c2 -W1 "+peer+" >/dev/null && echo open || echo closed"); got != "closed" {
		t.Errorf("a capsule pings another: %s", got)
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/capsbr0/disable_ipv6"); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("IPv6 on the bridge: %s, %v", b, err)
	}
}
