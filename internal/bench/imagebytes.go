package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// intakes measures how fast an image comes in, from a file and as a stream over the unix socket, against programs that do
// parts of it with the same file: one reads and digests it, one copies it, one copies it and has it written.
func intakes(ctx context.Context, b *bench) (err error) {
	p := b.plan.image
	b.say("an image of %d MiB comes in, %d times each way", p.fileMB, p.imports)
	dir, err := os.MkdirTemp("/var/lib/capsuled", "bench-") // the file system of the image store
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file, copied := filepath.Join(dir, "image"), filepath.Join(dir, "copy")
	if err := diskFile(file, int64(p.fileMB)<<20); err != nil {
		return err
	}
	ways := []way{
		{"sha256sum", program(ctx, "sha256sum", file)},
		{"cp", program(ctx, "cp", "--reflink=never", "--sparse=never", file, copied)},
		{"cp, and sync", program(ctx, "sh", "-c", `cp --reflink=never --sparse=never "$1" "$2" && sync "$2"`, "sh", file, copied)},
		{"image from a file", b.d.intake(ctx, func() (wire.Accepted, error) { return b.d.api.AddImage(ctx, wire.NewImage{Name: "bench", Path: file}) })},
		{"image sent", b.d.intake(ctx, func() (a wire.Accepted, err error) {
			image, err := b.d.api.NewUpload(ctx, wire.NewImage{Name: "bench"})
			if err != nil {
				return a, err
			}
			f, err := os.Open(file)
			if err != nil {
				return a, err
			}
			defer f.Close()
			return b.d.api.Upload(ctx, image.ID, f, int64(p.fileMB)<<20, nil)
		})},
	}
	for i := range ways {
		run := ways[i].run
		ways[i].run = func() (time.Duration, error) {
			settle()
			return run()
		}
	}
	took, err := inTurn(ways, p.imports)
	if err != nil {
		return err
	}
	t := table{title: fmt.Sprintf("An image of %d MiB comes in, from the request to the end of the operation; medians of %d rounds of all", p.fileMB, p.imports),
		head: []string{"", "median", "p10", "p90", "MiB/s", "to sha256sum", "to cp and sync"}}
	for _, w := range ways {
		s := took[w.name]
		t.add(w.name, ms(s.median()), ms(s.at(0.1)), ms(s.at(0.9)), fmt.Sprintf("%.0f", float64(p.fileMB)/s.median().Seconds()),
			ratio(s.median(), took["sha256sum"].median()), ratio(s.median(), took["cp, and sync"].median()))
	}
	t.print(b.out)
	return nil
}

// intake takes an image in, and deletes it off the clock: bytes that are there already would not be written.
func (d *daemon) intake(ctx context.Context, begin func() (wire.Accepted, error)) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		op, took, err := d.operate(ctx, func() (string, error) {
			a, err := begin()
			return a.Operation.ID, err
		})
		if err != nil {
			return 0, err
		}
		_, _, err = d.operate(ctx, func() (string, error) {
			a, err := d.api.DeleteImage(ctx, op.Target)
			return a.Operation.ID, err
		})
		return took, err
	}
}

func program(ctx context.Context, name string, args ...string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		return clock(func() error {
			if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
}

// diskFile makes a raw disk with one partition, whose bytes nothing makes smaller.
func diskFile(name string, size int64) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const sector, first = 512, 2048
	boot := make([]byte, first*sector)
	entry := boot[446:462]
	entry[4] = 0x83 // Linux
	binary.LittleEndian.PutUint32(entry[8:], first)
	binary.LittleEndian.PutUint32(entry[12:], uint32(size/sector-first))
	boot[510], boot[511] = 0x55, 0xAA
	if _, err := f.Write(boot); err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size-int64(len(boot)))
	return err
}
