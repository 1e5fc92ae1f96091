package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// secureMode is the heart of the demonstration: data, no network, and nothing of it afterwards.
func (s *show) secureMode() []scene {
	return []scene{
		{"switch to secure mode", func(ctx context.Context) (string, error) { return s.switchTo(ctx, "secure") }},
		{"prove", s.prove},
		{"the guest has its volumes", func(ctx context.Context) (string, error) {
			return s.inside(ctx, "grep -c /media/ /proc/mounts", "2")
		}},
		{"it writes where it should not, too", func(ctx context.Context) (string, error) {
			return s.inside(ctx, "echo protected >/media/secure_volume/text; cp /media/secure_volume/text /root/stolen; sync; cat /root/stolen", "protected")
		}},
		{"it does not reach the world", func(ctx context.Context) (string, error) {
			return s.inside(ctx, "ping -c1 -W1 "+testhost.WorldAddr+" >/dev/null && echo reached || echo nothing passes", "nothing passes")
		}},
		{"nor does ssh reach it", s.noSSH},
		{"capsuled killed with -9 meanwhile", func(ctx context.Context) (string, error) { return s.restarted(ctx, "SECURE") }},
		{"switch to maintenance mode", func(ctx context.Context) (string, error) { return s.switchTo(ctx, "maintenance") }},
		{"what it stole is gone", func(ctx context.Context) (string, error) {
			return s.ssh(ctx, "test ! -e /root/stolen && ! grep -q /media/ /proc/mounts && cat /root/note")
		}},
		{"switch to secure mode again", func(ctx context.Context) (string, error) { return s.switchTo(ctx, "secure") }},
		{"its volume has kept the data", func(ctx context.Context) (string, error) {
			return s.inside(ctx, "cat /media/secure_volume/text", "protected")
		}},
		{"the record of each switch", s.records},
	}
}

func (s *show) switchTo(ctx context.Context, mode string) (string, error) {
	if _, err := s.d.Ctl(ctx, "switch", "--wait", s.capsule, mode); err != nil {
		return "", err
	}
	st, err := s.status(ctx)
	return s.expect(st, err, "RUNNING", strings.ToUpper(mode))
}

func (s *show) prove(ctx context.Context) (string, error) {
	out, err := s.d.Ctl(ctx, "prove", s.capsule)
	lines := strings.Split(out, "\n")
	return strings.ToLower(lines[len(lines)-1]), err
}

func (s *show) records(ctx context.Context) (string, error) {
	_, err := s.d.Ctl(ctx, "records", "--verify", s.capsule)
	return "chained by hash, and whole", err
}

// noSSH tries the forwarded port from outside.
func (s *show) noSSH(ctx context.Context) (string, error) {
	if out, err := rig.SSH(ctx, s.guest, s.port, "true"); err == nil {
		return "", fmt.Errorf("ssh got in: %s", out)
	}
	return "the forward is gone", nil
}

func (s *show) restarted(ctx context.Context, mode string) (string, error) {
	s.d.Kill()
	if _, err := s.start(ctx); err != nil {
		return "", err
	}
	st, err := s.status(ctx)
	return s.expect(st, err, "RUNNING", mode)
}

// inside runs a command in the guest through its agent, as whoever sits before its screen could: there is no network
// to do it over.
func (s *show) inside(ctx context.Context, command, want string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var began struct{ Return struct{ PID int } }
	err := s.agent(ctx, map[string]any{"execute": "guest-exec", "arguments": map[string]any{
		"path": "/bin/sh", "arg": []string{"-c", command}, "capture-output": true}}, &began)
	if err != nil {
		return "", err
	}
	for {
		var status struct {
			Return struct {
				Exited bool
				Out    string `json:"out-data"`
			}
		}
		err := s.agent(ctx, map[string]any{"execute": "guest-exec-status", "arguments": map[string]any{"pid": began.Return.PID}}, &status)
		if err != nil {
			return "", err
		}
		if !status.Return.Exited {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		out, err := base64.StdEncoding.DecodeString(status.Return.Out)
		got := strings.TrimSpace(string(out))
		if err == nil && got != want {
			err = fmt.Errorf("%q says %q, and should say %q", command, got, want)
		}
		return got, err
	}
}

func (s *show) agent(ctx context.Context, request, answer any) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "virsh", "qemu-agent-command", s.capsule, string(text)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return json.Unmarshal(out, answer)
}
