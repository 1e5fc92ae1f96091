package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/api/wire"
)

// openTerminal makes a pseudo-terminal of so many columns.
func openTerminal(t *testing.T, columns uint16) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	fd := int(control.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return control, terminal
}

// session is capsulectl on a terminal: standard input and error are the terminal, standard output is not.
type session struct {
	*exec.Cmd
	control *os.File
	screen  strings.Builder
}

func startSession(t *testing.T, daemon *fakeDaemon, columns uint16, args ...string) *session {
	t.Helper()
	socket, stop, err := serveUnix(daemon)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	control, terminal := openTerminal(t, columns)
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Args[0] = "capsulectl" // TestMain runs main under this name
	cmd.Env = []string{"TERM=vt100", "CAPSULED_SOCKET=" + socket, "GORACE=" + quickExit}
	cmd.Stdin, cmd.Stderr = terminal, terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close() // so that reading ends with the process
	return &session{Cmd: cmd, control: control}
}

// expect reads the screen until text appears, or to the end for "".
func (s *session) expect(t *testing.T, text string) {
	t.Helper()
	buffer := make([]byte, 1024)
	for text == "" || !strings.Contains(s.screen.String(), text) {
		n, err := s.control.Read(buffer)
		s.screen.Write(buffer[:n])
		if err != nil { // EIO: the other side is closed
			if text == "" {
				return
			}
			t.Fatalf("%q did not appear in %q", text, s.screen.String())
		}
	}
}

// end reads the rest and returns the exit status.
func (s *session) end(t *testing.T) int {
	t.Helper()
	s.expect(t, "")
	s.Wait()
	return s.ProcessState.ExitCode()
}

const one = "aaaa1111-0000-4000-8000-000000000001"

func daemonWithCapsule() *fakeDaemon {
	daemon := newFakeDaemon()
	daemon.AddCapsule(wire.Status{VMID: one, State: "SHUTDOWN"}, true)
	return daemon
}

func TestProgressOnTerminal(t *testing.T) {
	const columns = 70
	s := startSession(t, daemonWithCapsule(), columns, "launch", "--wait", one)
	if status := s.end(t); status != 0 {
		t.Fatalf("status %d, screen %q", status, s.screen.String())
	}
	frames := strings.Split(s.screen.String(), clear)
	last := len(frames) - 1
	if frames[0] != "" || frames[last] != "launch aaaa1111: succeeded in 1.5 s\r\n" {
		t.Errorf("frames %q", frames)
	}
	var steps strings.Builder
	for _, frame := range frames[1:last] {
		if strings.ContainsAny(frame, "\r\n") || len([]rune(frame)) >= columns {
			t.Errorf("a frame leaves its line: %q", frame)
		}
		steps.WriteString(frame)
	}
	for _, want := range []string{"  0% admit", " 16% define", "[######..............]  33% ", " 83% verify"} {
		if !strings.Contains(steps.String(), want) {
			t.Errorf("no frame has %q: %q", want, frames)
		}
	}
}

// What a step found stays on the screen, above the line that is drawn again.
func TestNoteOnTerminal(t *testing.T) {
	daemon := newFakeDaemon()
	daemon.AddCapsule(wire.Status{VMID: one, State: "RUNNING", Mode: "MAINTENANCE"}, true)
	s := startSession(t, daemon, 60, "switch", one, "secure", "--wait")
	if status := s.end(t); status != 0 {
		t.Fatalf("status %d, screen %q", status, s.screen.String())
	}
	var whole []string
	for _, frame := range strings.Split(s.screen.String(), clear) {
		if strings.Contains(frame, "\n") {
			whole = append(whole, frame)
		}
	}
	want := []string{"switch aaaa1111: fence done (0.25 s): 3 connections cut\r\n",
		`switch aaaa1111: mount done (0.25 s): the guest: \x1b[2Jmounted\nattach done` + "\r\n", "switch aaaa1111: succeeded in 1.5 s\r\n"}
	if !slices.Equal(whole, want) {
		t.Errorf("lines %q, want %q", whole, want)
	}
}

func TestInterruptOnTerminal(t *testing.T) {
	daemon := daemonWithCapsule()
	daemon.Hold()
	s := startSession(t, daemon, 80, "launch", "--wait", one)
	s.expect(t, "admit")
	if err := s.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := s.end(t); status != exitInterrupted {
		t.Errorf("status %d", status)
	}
	// The message stands on a line of its own, where the progress was.
	want := clear + "capsulectl: interrupted; the daemon goes on, to wait again: capsulectl operation wait c0000001-"
	if !strings.Contains(s.screen.String(), want) {
		t.Errorf("screen %q", s.screen.String())
	}
}

func TestConfirmation(t *testing.T) {
	for _, tt := range []struct {
		name, typed string
		status      int
		left        bool
	}{
		{"yes", "y\n", exitOK, false},
		{"whole word", "YES\n", exitOK, false},
		{"no", "n\n", exitOther, true},
		{"nothing", "\n", exitOther, true},
		{"end of input", "\x04", exitOther, true},
		{"something else", "yesterday\n", exitOther, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			daemon := daemonWithCapsule()
			s := startSession(t, daemon, 80, "delete", "aaaa")
			s.expect(t, "Delete 1 capsule(s) for good? [y/N] ")
			if !strings.Contains(s.screen.String(), "  "+one+" SHUTDOWN\r\n") {
				t.Errorf("the question does not say what: %q", s.screen.String())
			}
			io.WriteString(s.control, tt.typed)
			if status := s.end(t); status != tt.status {
				t.Errorf("status %d, screen %q", status, s.screen.String())
			}
			if _, left := daemon.Capsule(one); left != tt.left {
				t.Errorf("capsule left: %v", left)
			}
		})
	}
	t.Run("a signal answers no", func(t *testing.T) {
		daemon := daemonWithCapsule()
		s := startSession(t, daemon, 80, "delete", one)
		s.expect(t, "[y/N] ")
		s.Process.Signal(syscall.SIGTERM)
		if status := s.end(t); status != exitInterrupted {
			t.Errorf("status %d", status)
		}
		if _, left := daemon.Capsule(one); !left {
			t.Error("the capsule is gone")
		}
	})
}

// Every code of the daemon gives its status, in both dialects.
func TestExitStatus(t *testing.T) {
	daemon := newFakeDaemon()
	socket, stop, err := serveUnix(daemon)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	runs := 0
	for _, exit := range exits {
		for _, code := range exit.codes {
			for _, command := range []string{"show " + one, "list"} {
				daemon.Refuse(code, "because")
				var out, errs strings.Builder
				args := append(strings.Fields(command), "--socket", socket)
				if status := run(t.Context(), args, nil, &out, &errs); status != exit.status || out.Len() != 0 {
					t.Errorf("%s with %s: status %d, want %d; %s", command, code, status, exit.status, out.String())
				}
				if want := "capsulectl: because (" + code + ", request req-7)\n"; errs.String() != want {
					t.Errorf("%s with %s says %q, want %q", command, code, errs.String(), want)
				}
				runs++
			}
		}
	}
	if runs != 2*12 {
		t.Errorf("%d codes in the table, want the daemon's 12", runs/2)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if status := run(cancelled, []string{"list", "--socket", socket}, nil, io.Discard, io.Discard); status != exitInterrupted {
		t.Errorf("cancelled: status %d", status)
	}
}

// What is sent is drawn like an operation, and the bar is gone when it has arrived.
func TestTransferOnTerminal(t *testing.T) {
	s := startSession(t, newFakeDaemon(), 80, "image", "add", "--name", "typed", "-")
	s.expect(t, clear+"upload b0000001 [....................]   0% ")
	if _, err := s.control.WriteString("abc\n\x04"); err != nil {
		t.Fatal(err)
	}
	if status := s.end(t); status != exitOK {
		t.Errorf("status %d", status)
	}
	screen := s.screen.String()
	if !strings.Contains(screen, clear+"upload b0000001: upload done (") || !strings.Contains(screen, "image-add b0000001: succeeded in ") {
		t.Errorf("%q", screen)
	}
}
