package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

const (
	stateDir = "/var/lib/capsuled"
	patience = 3 * time.Minute // a guest on a busy machine without hardware virtualisation
)

// show is the demonstration under way.
type show struct {
	d     *rig.Daemon
	guest testhost.GuestImage
	began time.Time

	image, capsule string
	port           int
}

// step does one thing and prints it with its time; what it found is printed behind.
func (s *show) step(name string, do func() (string, error)) error {
	fmt.Printf("  %-34s", name)
	began := time.Now()
	found, err := do()
	took := time.Since(began)
	if err != nil {
		fmt.Printf("%8.3f s   FAILED\n", took.Seconds())
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Printf("%8.3f s   %s\n", took.Seconds(), found)
	return nil
}

type scene struct {
	name string
	do   func(context.Context) (string, error)
}

func (s *show) run(ctx context.Context, scenes []scene) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	for _, sc := range scenes {
		if err := s.step(sc.name, func() (string, error) { return sc.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// opening is what the demonstration and the standing host share.
func (s *show) opening() []scene {
	return []scene{
		{"capsuled starts and converges", s.start},
		{"image add", s.addImage},
		{"createvm", s.create},
		{"launchvm", s.launch},
		{"the guest answers ssh", func(ctx context.Context) (string, error) {
			return s.ssh(ctx, "uname -sr; echo 'written in maintenance mode' > /root/note; sync")
		}},
	}
}

// play is the whole demonstration.
func (s *show) play(ctx context.Context) error {
	fmt.Println()
	for _, act := range [][]scene{s.opening(), s.maintenance(), s.secureMode(), s.end()} {
		if err := s.run(ctx, act); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll as it should be, in %.1f s.\n", time.Since(s.began).Seconds())
	return nil
}

// maintenance is a capsule's life without data.
func (s *show) maintenance() []scene {
	return []scene{
		{"show", s.showOne},
		{"listvms", s.list},
		{"the guest reaches the world", func(ctx context.Context) (string, error) {
			return s.ssh(ctx, "ping -c1 -W2 "+testhost.WorldAddr+" | grep -o '1 packets received'")
		}},
		{"and the world sees the host", s.seenFrom},
	}
}

// end stops in the middle of secure mode, starts again, and takes everything away.
func (s *show) end() []scene {
	return []scene{
		{"stopvm, in secure mode", s.stop},
		{"launchvm again, in maintenance", s.launch},
		{"what was written first is there", s.readBack},
		{"capsuled killed with -9, restarted", func(ctx context.Context) (string, error) { return s.restarted(ctx, "MAINTENANCE") }},
		{"the capsule never noticed", func(ctx context.Context) (string, error) { return s.ssh(ctx, "echo up $(cut -d. -f1 /proc/uptime) s") }},
		{"deletevm", s.delete},
		{"image delete", s.deleteImage},
		{"nothing is left", s.nothingLeft},
		{"capsuled stops", func(context.Context) (string, error) { return "", s.d.Stop() }},
	}
}

// stay leaves a host with a capsule running until ctx ends.
func (s *show) stay(ctx context.Context) error {
	fmt.Println()
	if err := s.run(ctx, s.opening()); err != nil {
		return err
	}
	pid, err := testhost.OuterPID()
	if err != nil {
		return err
	}
	enter := fmt.Sprintf("nsenter -t %d -a", pid)
	ctl := s.d.Programs.Capsulectl
	fmt.Printf(`
The host stands until Ctrl-C. From a second terminal, as root:

  %[1]s %[2]s list
  %[1]s %[2]s show %[3]s
  %[1]s ip netns exec world ssh -i %[4]s -p %[5]d -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@%[6]s
  %[1]s virsh list
  %[1]s %[2]s switch --wait %[3]s secure
  %[1]s %[2]s prove %[3]s
  %[1]s %[2]s switch --wait %[3]s maintenance
  %[1]s %[2]s stop --wait %[3]s
  %[1]s curl --unix-socket %[7]s http://capsuled/metrics
  %[1]s bash

`, enter, ctl, s.capsule[:8], s.guest.KeyPath, s.port, testhost.HostAddr, s.d.Socket)
	<-ctx.Done()
	fmt.Println("\nThe host ends, and everything in it.")
	return nil
}

func (s *show) start(ctx context.Context) (string, error) {
	if err := s.d.Start(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return "on its embedded defaults", s.d.Ready(ctx)
}

func (s *show) addImage(ctx context.Context) (_ string, err error) {
	s.image, err = s.d.Ctl(ctx, "image", "add", "--name", "guest", "--public", s.guest.Qcow2)
	return s.image, err
}

func (s *show) create(ctx context.Context) (_ string, err error) {
	out, err := s.d.Ctl(ctx, "create", "--image", s.image, "--memory", "256", "--wait")
	s.capsule = out
	return s.capsule, err
}

func (s *show) launch(ctx context.Context) (string, error) {
	_, err := s.d.Ctl(ctx, "launch", "--wait", s.capsule)
	if err != nil {
		return "", err
	}
	st, err := s.status(ctx)
	s.port = st.SSHPort
	return s.expect(st, err, "RUNNING", "MAINTENANCE")
}

func (s *show) stop(ctx context.Context) (string, error) {
	_, err := s.d.Ctl(ctx, "stop", "--wait", s.capsule)
	if err != nil {
		return "", err
	}
	st, err := s.status(ctx)
	return s.expect(st, err, "SHUTDOWN", "NOT_DEFINED")
}

func (s *show) status(ctx context.Context) (wire.Status, error) {
	out, err := s.d.Ctl(ctx, "show", "--json", s.capsule)
	if err != nil {
		return wire.Status{}, err
	}
	var list wire.StatusList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return wire.Status{}, fmt.Errorf("%w: %s", err, out)
	}
	if len(list.Status) != 1 {
		return wire.Status{}, fmt.Errorf("%d capsules are shown: %s", len(list.Status), out)
	}
	return list.Status[0], nil
}

func (s *show) expect(st wire.Status, err error, state, mode string) (string, error) {
	if err == nil && (st.State != state || st.Mode != mode) {
		err = fmt.Errorf("it is %s, %s, and should be %s, %s", st.State, st.Mode, state, mode)
	}
	return strings.ToLower(st.State + ", " + st.Mode), err
}

func (s *show) ssh(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.AwaitSSH(ctx, s.guest, s.port, command)
}

func (s *show) showOne(ctx context.Context) (string, error) {
	st, err := s.status(ctx)
	if err == nil && st.Observed != "running" {
		err = fmt.Errorf("libvirt says that it is %s", st.Observed)
	}
	return fmt.Sprintf("%s:%d, console on port %d", st.PublicIP, st.SSHPort, st.VNCPort), err
}

func (s *show) list(ctx context.Context) (string, error) {
	status, body, err := s.d.Get(ctx, "/sloan-ws/listvms")
	if err != nil {
		return "", err
	}
	var l wire.VMList
	if err := json.Unmarshal([]byte(body), &l); err != nil || status != 200 {
		return "", fmt.Errorf("status %d: %s", status, body)
	}
	if len(l.VMsInfo) != 1 || l.VMsInfo[0].VMID != s.capsule {
		return "", fmt.Errorf("the list is %s", body)
	}
	return "1 capsule", nil
}

// seenFrom has the guest fetch from a server in the outside world that answers with the address it sees.
func (s *show) seenFrom(ctx context.Context) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := testhost.World(ctx, "python3", "-c", `
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("", 8000), H).serve_forever()`)
	if err := server.Start(); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = server.Wait() }()
	out, err := s.ssh(ctx, "wget -qO- http://"+testhost.WorldAddr+":8000/")
	if err == nil && out != testhost.HostAddr {
		err = fmt.Errorf("the world saw %q", out)
	}
	return "as " + out + ": the guest's own address stays inside", err
}

func (s *show) readBack(ctx context.Context) (string, error) {
	out, err := s.ssh(ctx, "cat /root/note")
	if err == nil && out != "written in maintenance mode" {
		err = fmt.Errorf("the note says %q", out)
	}
	return out, err
}

func (s *show) delete(ctx context.Context) (string, error) {
	_, err := s.d.Ctl(ctx, "delete", "--yes", "--wait", s.capsule)
	return "", err
}

func (s *show) deleteImage(ctx context.Context) (string, error) {
	_, err := s.d.Ctl(ctx, "image", "delete", "--yes", s.image)
	return "", err
}

func (s *show) nothingLeft(ctx context.Context) (string, error) {
	traces, err := rig.Traces(ctx, stateDir)
	if err == nil && len(traces) > 0 {
		err = errors.New("left behind:\n" + strings.Join(traces, "\n"))
	}
	return "no file, domain, lease, rule, link or process", err
}
