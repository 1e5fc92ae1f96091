package imagestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a program may use that reads bytes nobody vouches for.
const (
	sandboxID      = 65534 // nobody, nogroup
	sandboxSeconds = 60    // of processor time
	sandboxTimeout = 3 * time.Minute
	sandboxMemory  = 1 << 30 // of address space
	sandboxStack   = 2 << 20 // of each thread
	outputLimit    = 1 << 20
)

// sandboxEnvironment is all that a task has of one. qemu-img converts with up to 64 threads: with an arena of malloc's for
// each of them, and stacks as large as the machine's, they would not fit into sandboxMemory, and it would abort.
var sandboxEnvironment = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MALLOC_ARENA_MAX=1"}

// task is a program that reads bytes nobody vouches for. It runs as nobody, with no network, with limits on time and
// memory, and knows its files as descriptors only: all that it can reach by name is what everybody can.
type task struct {
	program string
	args    []string
	files   []*os.File // descriptors 3 and on; what nobody may do with them, it may
	input   string     // on its standard input
	bytes   int64      // how much there is to work through: it gets more time for more
	grow    int64      // the length to which it can write a file; 0 if it can write none
	output  int        // how much of what it says is kept; 0 for outputLimit
}

// sandboxedName is the name by which a task knows its file number i: its only way to it.
func sandboxedName(i int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+i) }

// seconds is the processor time of a task: a base, and a second for each 16 MiB.
func (t task) seconds() int64 { return sandboxSeconds + t.bytes>>24 }

// run waits for the program to end, and returns what it said; with an [*exec.ExitError] too.
func (t task) run(ctx context.Context) ([]byte, error) {
	program, err := exec.LookPath(t.program)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, sandboxTimeout+3*time.Duration(t.bytes>>24)*time.Second)
	defer cancel()
	argv := append([]string{
		fmt.Sprintf("--cpu=%d", t.seconds()), fmt.Sprintf("--as=%d", sandboxMemory), fmt.Sprintf("--stack=%d", sandboxStack),
		fmt.Sprintf("--fsize=%d", t.grow), "--core=0", "--nofile=64", "--", program,
	}, t.args...)
	cmd := exec.CommandContext(limited, "prlimit", argv...)
	cmd.Dir, cmd.Env = "/", sandboxEnvironment
	cmd.ExtraFiles = t.files
	if t.input != "" {
		cmd.Stdin = strings.NewReader(t.input)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: sandboxID, Gid: sandboxID},
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
	}
	cmd.WaitDelay = time.Second
	stdout, stderr := bounded{limit: t.output}, bounded{}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = stderr.bytes()
	}
	if err != nil {
		verb, _, _ := strings.Cut(strings.Join(t.args, " "), " ")
		return stdout.bytes(), fmt.Errorf("%s %s: %w: %.200s", t.program, verb, err, stderr.bytes())
	}
	if t.output > 0 && stdout.cut {
		return nil, fmt.Errorf("%s: it says more than %d bytes", t.program, t.output)
	}
	return stdout.bytes(), nil
}

// bounded keeps the beginning of what a program says, and lets the rest go: a bad file can make it say a lot.
// The buffer is not embedded: its ReadFrom would take everything in, past Write.
type bounded struct {
	kept  bytes.Buffer
	limit int // 0 for outputLimit
	cut   bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := cmp.Or(b.limit, outputLimit) - b.kept.Len()
	b.cut = b.cut || len(p) > room
	b.kept.Write(p[:min(len(p), room)])
	return len(p), nil
}

func (b *bounded) bytes() []byte { return b.kept.Bytes() }
