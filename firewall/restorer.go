package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// restorer is an iptables-restore that stays and takes one text after the other: a change then costs neither
// the start of a program nor what the kernel waits for whenever one ends (see nfTables; within one run it waits
// again for each extension that is loaded after the first table). It is for the nf_tables backend only: the
// legacy one would hold the xtables lock all the time.
//
// With --verbose iptables-restore says every comment again when it gets there, and flushes its output. That is
// how we know that what stands before the comment was committed. At the first line that it does not like it
// ends; the next text starts another.
type restorer struct {
	program string
	cmd     *exec.Cmd // nil if none runs
	in, out *os.File
	texts   int
}

// load gives a text to the program, and returns when all its tables are committed. After an error it is not
// known which of them are. "" is nothing to do.
func (r *restorer) load(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return &commandError{r.program, "", err}
	}
	if r.cmd == nil {
		if err := r.start(); err != nil {
			return &commandError{r.program, "", err}
		}
	}
	said, err := r.exchange(ctx, text)
	if err != nil {
		r.stop()
		return &commandError{r.program, strings.TrimSpace(said), errors.Join(ctx.Err(), err)}
	}
	return nil
}

func (r *restorer) start() error {
	stdin, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		return errors.Join(err, in.Close())
	}
	defer stdout.Close()
	cmd := exec.Command(r.program, "--noflush", "--verbose")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stdout
	if err := cmd.Start(); err != nil {
		return errors.Join(err, in.Close(), out.Close())
	}
	r.cmd, r.in, r.out = cmd, in, out
	return nil
}

// exchange writes the text and a comment, and reads until the comment comes back.
func (r *restorer) exchange(ctx context.Context, text string) (said string, err error) {
	r.texts++
	comment := fmt.Sprintf("# done %d\n", r.texts)
	deadline := time.Now().Add(swapTime)
	err = errors.Join(r.in.SetDeadline(deadline), r.out.SetDeadline(deadline))
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() {
		_ = r.in.SetDeadline(time.Unix(1, 0))
		_ = r.out.SetDeadline(time.Unix(1, 0))
	})()
	// Its output until the comment is a line for each chain that it empties: far less than a pipe holds.
	_, wrong := r.in.WriteString(text + comment)
	var answer bytes.Buffer
	buf := make([]byte, 4096)
	for !bytes.HasSuffix(answer.Bytes(), []byte(comment)) {
		n, err := r.out.Read(buf)
		answer.Write(buf[:n])
		if err != nil {
			return answer.String(), errors.Join(wrong, err)
		}
	}
	return "", nil
}

// stop ends the program, wherever it is.
func (r *restorer) stop() {
	if r.cmd == nil {
		return
	}
	_ = errors.Join(r.in.Close(), r.out.Close(), r.cmd.Process.Kill())
	cmd := r.cmd
	go func() { _ = cmd.Wait() }() // that it was killed is no news; in the middle of a system call it takes its time to die
	r.cmd = nil
}
