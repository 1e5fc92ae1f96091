package e2e

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capsuled/capsuled/internal/testhost"
)

// TestSecurePersistence goes to secure mode and back three times, stops and starts, and stops in secure mode: what was
// written in maintenance mode and what was written to the volumes is kept, and nothing else (capsule contract, check 7).
func TestSecurePersistence(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "echo kept >/root/kept; echo kept >/tmp/kept; sleep 100001 </dev/null >/dev/null 2>&1 &")
	v.beacon()
	session := v.session()
	boot := v.ssh(v.id, "cat /proc/sys/kernel/random/boot_id")
	for round := range 3 {
		v.quiet()
		v.secure()
		v.proved()
		if got := v.inside("cat /root/kept /tmp/kept"); got != "kept\nkept" {
			t.Errorf("in secure mode there is %q of maintenance mode", got)
		}
		v.earlier(round)
		v.leaveWord(round)
		v.maintenance()
		v.proved()
		v.clean(round)
		if now := v.ssh(v.id, "cat /proc/sys/kernel/random/boot_id; cat /tmp/kept; ps | grep -c '[s]leep 100001'"); now != boot+"\nkept\n1" {
			t.Errorf("after the return it is another machine than before: %q, was booted as %s", now, boot)
		}
		v.clock()
		v.hears()
		session()
	}
	v.stopped()
}

// leaveWord writes a word wherever the guest can: root disk, RAM, a process, both volumes. Nothing is synced.
func (v *vault) leaveWord(round int) {
	v.t.Helper()
	v.inside(fmt.Sprintf(`for f in /root /tmp /var/lib /media/secure_volume /media/release_spool; do echo word >$f/word%d || exit 1; done
		echo spoiled >/root/kept; sleep 10010%d </dev/null >/dev/null 2>&1 &`, round, round))
}

// earlier wants the words of earlier rounds on both volumes, and nowhere else.
func (v *vault) earlier(rounds int) {
	v.t.Helper()
	for round := range rounds {
		got := v.inside(fmt.Sprintf("cat /media/secure_volume/word%d /media/release_spool/word%d; ls /root/word* /tmp/word* /var/lib/word* 2>/dev/null || true", round, round))
		if got != "word\nword" {
			v.t.Errorf("of round %d there is %q, and should be the word on both volumes", round, got)
		}
	}
}

// clean wants nothing of secure mode in maintenance mode, neither in the guest nor on the host.
func (v *vault) clean(round int) {
	v.t.Helper()
	left := v.ssh(v.id, fmt.Sprintf(`ls /root/word* /tmp/word* /var/lib/word* /media/*/word* 2>/dev/null; grep /media/ /proc/mounts
		findfs LABEL=secure_volume 2>/dev/null; findfs LABEL=release_spool 2>/dev/null; ps | grep '[s]leep 10010%d'; ls /sys/block | grep vd; cat /root/kept`, round))
	if left != "vda\nkept" {
		v.t.Errorf("in maintenance mode there is %q, and should be one disk and the file that was kept", left)
	}
	v.forgotten()
}

// clock wants the guest to know the time, for which it stood still.
func (v *vault) clock() {
	v.t.Helper()
	const near = 10 * time.Second // a guest on a busy machine answers late
	now, err := strconv.ParseInt(v.ssh(v.id, "date +%s"), 10, 64)
	if off := time.Since(time.Unix(now, 0)); err != nil || off.Abs() > near {
		v.t.Errorf("the guest's clock is off by %v, %v", off, err)
	}
}

// quiet waits until the guest has no sent data that nobody has confirmed: what it sends again after the return is a
// connection that the host has forgotten, and is refused by the other end.
func (v *vault) quiet() {
	v.t.Helper()
	v.until("quiet ssh sessions", func() error {
		out, err := v.agentShell("netstat -tn | grep :22")
		for line := range strings.Lines(out) { // Proto Recv-Q Send-Q ...
			if f := strings.Fields(line); len(f) > 2 && f[2] != "0" {
				err = fmt.Errorf("the guest waits for a confirmation: %s", line)
			}
		}
		return err
	})
}

// session opens an ssh session; what it returns wants that session to answer still.
func (v *vault) session() (answers func()) {
	v.t.Helper()
	cmd := testhost.World(v.t.Context(), "ssh", "-i", v.guest.KeyPath, "-p", fmt.Sprint(v.status(v.id).SSHPort),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
		"root@"+testhost.HostAddr, "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	count := 0
	answers = func() {
		v.t.Helper()
		count++
		word := fmt.Sprintf("hello%d", count)
		if _, err := fmt.Fprintln(in, word); err != nil {
			v.t.Fatalf("the ssh session of before is gone: %v", err)
		}
		select {
		case got := <-lines:
			if got != word {
				v.t.Fatalf("the ssh session of before says %q", got)
			}
		case <-time.After(patience):
			v.t.Fatal("the ssh session of before is silent")
		}
	}
	answers()
	return answers
}

// stopped stops the capsule in maintenance mode and in secure mode, and refuses to switch one that is off.
func (v *vault) stopped() {
	t := v.t
	v.ctl("stop", "--wait", v.id)
	v.refused(4, "SHUTDOWN", "switch", v.id, "secure")
	v.refused(4, "SHUTDOWN", "switch", v.id, "maintenance")
	v.ctl("launch", "--wait", v.id)
	v.clean(9)
	v.beacon()
	v.secure()
	v.earlier(3)
	v.leaveWord(3)
	v.inside("sync") // nobody asks a guest that powers itself off
	v.ctl("stop", "--wait", v.id)
	if st := v.is("SHUTDOWN", "NOT_DEFINED"); st.Cause != nil {
		t.Errorf("a stop in secure mode leaves a cause: %s", *st.Cause)
	}
	v.forgotten()
	v.proved()
	v.ctl("launch", "--wait", v.id)
	v.is("RUNNING", "MAINTENANCE")
	v.clean(3)
	v.beacon()
	v.secure()
	v.earlier(4)
}

// TestSecureRefusals asks for what cannot be: the mode that it is in, two switches at once, a stop and a deletion in the
// middle of a switch.
func TestSecureRefusals(t *testing.T) {
	v := newVault(t)
	v.ssh(v.id, "true")
	v.beacon()
	v.refused(4, "MAINTENANCE", "switch", v.id, "maintenance")
	for _, mode := range []string{"secure", "maintenance"} {
		v.race(mode)
		v.settle()
		v.is("RUNNING", strings.ToUpper(mode))
		v.refused(4, strings.ToUpper(mode), "switch", v.id, mode)
		v.refused(4, "not held", "resume", v.id)
		v.proved()
	}
	for _, mode := range []string{"secure", "maintenance"} {
		v.ctl("switch", v.id, mode)
		v.refused(4, "busy", "stop", v.id)
		v.refused(4, "busy", "delete", "--yes", v.id)
		v.refused(4, "busy", "set", v.id, "--type", "RESEARCH-FULL")
		v.settle()
		v.is("RUNNING", strings.ToUpper(mode))
	}
	v.hears()
	v.secure()
	v.ctl("delete", "--yes", "--wait", v.id)
}

// race asks for a switch several times at once: one wins, and the others are told that it is busy, or there already.
func (v *vault) race(mode string) {
	v.t.Helper()
	const many = 4
	won := make(chan string, many)
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			out, err := v.Ctl(v.t.Context(), "switch", v.id, mode)
			if err == nil {
				won <- out
			} else if !strings.Contains(err.Error(), "exit status 4") {
				v.t.Errorf("a switch beside another: %v", err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		v.t.Errorf("of %d switches at once %d won", many, len(won))
	}
}
