package imagestore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// hostile stands in for a qemu-img that an image has taken over: it runs a script where qemu-img would run.
func hostile(t *testing.T, script string) (*os.File, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "hostile") // a place that nobody can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, program := filepath.Join(t.TempDir(), "image"), filepath.Join(dir, "qemu-img")
	err = errors.Join(
		os.Chmod(dir, 0o755), os.WriteFile(program, []byte("#!/bin/bash\n"+script), 0o755),
		os.Chmod(program, 0o755), os.WriteFile(image, []byte("contents"), 0o444),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, dir
}

// A program that was taken over can read the image that it was given, and that is all.
func TestSandbox(t *testing.T) {
	t.Setenv("SECRET", "of the daemon")
	f, _ := hostile(t, `
echo "user $(id -u):$(id -g) $(id -G)"
echo "read $(cat /proc/self/fd/3)"
(echo x > /proc/self/fd/3) 2>/dev/null && echo "wrote by name"
(echo x >&3) 2>/dev/null && echo "wrote by descriptor"
(echo x > /dev/shm/planted) 2>/dev/null && [ -s /dev/shm/planted ] && echo "wrote a file"
echo "interfaces $(tail -n +3 /proc/net/dev | grep -cv ' lo:')"
echo "capabilities $(grep CapEff /proc/self/status | cut -f2)"
echo "cpu $(ulimit -t) memory $(ulimit -v) core $(ulimit -c)"
echo "environment ${SECRET:-none} $LC_ALL"
`)
	out, err := sandboxed(t.Context(), f, "info")
	if err != nil {
		t.Fatal(err)
	}
	want := `user 65534:65534 65534
read contents
interfaces 0
capabilities 0000000000000000
cpu 60 memory 1048576 core 0
environment none C
`
	if got := string(out); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// One that says too much, or never ends, costs no more than a bounded amount of memory and time.
func TestSandboxBounds(t *testing.T) {
	t.Run("chatter", func(t *testing.T) {
		f, _ := hostile(t, "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2")
		out, err := sandboxed(t.Context(), f, "info")
		if err != nil || len(out) != outputLimit {
			t.Error(len(out), err)
		}
	})
	t.Run("memory", func(t *testing.T) {
		f, _ := hostile(t, `exec python3 -c 'x = bytearray(2 << 30)'`)
		_, err := describe(t.Context(), f)
		if bad, ok := errors.AsType[*BadImage](err); !ok {
			t.Error(bad, err)
		}
	})
	t.Run("threads", func(t *testing.T) { // as many as qemu-img converts with
		f, _ := hostile(t, `exec python3 -c '
import ctypes, threading
malloc = ctypes.CDLL("libc.so.6").malloc
all = threading.Barrier(65)
def work():
    malloc(1000)
    all.wait()
threads = [threading.Thread(target=work, daemon=True) for _ in range(64)]
for t in threads: t.start()
all.wait()
'`)
		if _, err := sandboxed(t.Context(), f, "convert"); err != nil {
			t.Error(err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		f, dir := hostile(t, `echo > /dev/null; exec sleep infinity`)
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := sandboxed(ctx, f, "info"); !errors.Is(err, context.Canceled) {
			t.Error(dir, err)
		}
	})
	t.Run("absent", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		f, err := os.Open(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = describe(t.Context(), f)
		if err == nil || errors.Is(err, ErrInvalid) {
			t.Error("no verdict on the image, but", err)
		}
	})
}
