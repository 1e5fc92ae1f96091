// Command demo shows the main job of capsuled on a hermetic host: from an image to a running, reachable capsule, and
// away again without a trace. With -stay it leaves the host running with a capsule in it. `make demo` and `make run`
// call it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

const envPrograms = "CAPSULED_DEMO_PROGRAMS"

func main() {
	stay := flag.Bool("stay", false, "leave the host running with a capsule, until interrupted")
	flag.Parse()
	if !testhost.Inside() {
		if err := outside(); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
	}
	os.Exit(testhost.Enter(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if err := inside(ctx, *stay); err != nil {
			fmt.Fprintln(os.Stderr, "\ndemo:", err)
			return 1
		}
		return 0
	}, testhost.WithLibvirt()))
}

// outside makes what needs the network: the guest's packages are fetched once.
func outside() error {
	began := time.Now()
	guest, err := testhost.BuildGuest(context.Background())
	if err != nil {
		return err
	}
	fmt.Printf("guest image     %s (%.1f s)\n", guest.Qcow2, time.Since(began).Seconds())
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Setenv(envPrograms, filepath.Dir(exe))
}

func inside(ctx context.Context, stay bool) error {
	guest, err := testhost.BuildGuest(ctx)
	if err != nil {
		return err
	}
	bin := os.Getenv(envPrograms)
	log, err := os.CreateTemp("", "capsuled-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	d := &rig.Daemon{
		Programs: rig.Programs{Capsuled: filepath.Join(bin, "capsuled"), Capsulectl: filepath.Join(bin, "capsulectl")},
		Socket:   "/run/capsuled/capsuled.sock", Log: log,
	}
	s := &show{d: d, guest: guest, began: time.Now()}
	fmt.Println("hermetic host   own namespaces, libvirtd, and an outside world behind a cable")
	defer d.Kill()
	if stay {
		err = s.stay(ctx)
	} else {
		err = s.play(ctx)
	}
	if err != nil && ctx.Err() == nil {
		if _, e := log.Seek(0, io.SeekStart); e == nil {
			fmt.Fprintln(os.Stderr, "\n--- capsuled's log")
			_, _ = io.Copy(os.Stderr, log)
		}
	}
	return err
}
