package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// sandboxedFile is the name by which a sandboxed program knows the file: its only way to it, and read-only.
const sandboxedFile = "/proc/self/fd/3"

// describeRaw asks QEMU what it takes the file for, without telling it, and wants to hear "raw".
func describeRaw(ctx context.Context, f *os.File) error {
	info, err := describe(ctx, f)
	if err != nil {
		return err
	}
	if info.Format != string(Raw) {
		return refuse(remedyConvert, "it is a disk of format %q", info.Format)
	}
	return nil
}

// checkQcow2 holds our reading of the header against QEMU's, and has QEMU check the tables behind it.
func checkQcow2(ctx context.Context, f *os.File, h *qcow2Header) error {
	info, err := describe(ctx, f, "-f", string(Qcow2))
	if err != nil {
		return err
	}
	switch {
	case info.VirtualSize != h.Size:
		return refuse(remedyTransfer, "QEMU reads its size as %d, its header says %d", info.VirtualSize, h.Size)
	case info.BackingFile != "" || info.Specific.Data.DataFile != "":
		return refuse(remedyFlatten, "it refers to another file")
	case info.Encrypted || len(info.Snapshots) > 0 || info.Specific.Data.Corrupt:
		return refuse(remedyFlatten, "it is encrypted, corrupt, or has snapshots")
	}
	const leaksOnly = 3 // some clusters belong to nobody: wasted space, whole data
	_, err = sandboxed(ctx, f, "check", "-q", "-f", string(Qcow2))
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == leaksOnly {
		return nil
	}
	return damaged(err)
}

// description is the part of "qemu-img info" that matters here.
type description struct {
	Format      string            `json:"format"`
	VirtualSize uint64            `json:"virtual-size"`
	BackingFile string            `json:"backing-filename"`
	Encrypted   bool              `json:"encrypted"`
	Snapshots   []json.RawMessage `json:"snapshots"`
	Specific    struct {
		Data struct {
			DataFile string `json:"data-file"`
			Corrupt  bool   `json:"corrupt"`
		} `json:"data"`
	} `json:"format-specific"`
}

func describe(ctx context.Context, f *os.File, args ...string) (d description, err error) {
	out, err := sandboxed(ctx, f, append([]string{"info", "--output=json"}, args...)...)
	if err != nil {
		return d, damaged(err)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		return d, fmt.Errorf("qemu-img info: %w", err)
	}
	return d, nil
}

// damaged turns the verdict of a program that ran into a refusal. That it could not be run is no verdict.
func damaged(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return refuse("give a simpler file: qemu-img convert -O qcow2 OLD NEW", "inspecting it takes more time or memory than allowed")
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
	first = strings.ReplaceAll(strings.TrimPrefix(first, "qemu-img: "), sandboxedFile, "the file")
	return refuse(remedyTransfer, "QEMU finds it damaged: %.200q", first)
}

// sandboxed runs qemu-img on an open file, unable to write a file. The descriptor must be read-only and the file
// readable for everyone who can reach it.
func sandboxed(ctx context.Context, f *os.File, args ...string) ([]byte, error) {
	return task{program: "qemu-img", args: append(args, sandboxedFile), files: []*os.File{f}}.run(ctx)
}
