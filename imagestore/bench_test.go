package imagestore_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// plantImage puts a sparse image with some data in each GiB among those of a store that is not open, under a
// made-up digest: to digest 100 GiB would be most of the benchmark.
func plantImage(b *testing.B, dir string, size int64) (imagestore.Digest, string) {
	b.Helper()
	digits := fmt.Sprintf("%064x", size)
	path := filepath.Join(dir, "images", digits+".raw")
	pieces := map[int64][]byte{0: mbr(0x83, size/512-8)}
	for at := int64(0); at < size; at += gib {
		pieces[at+mib] = noise(byte(at/gib), mib)
	}
	run(b, "mv", write(b, size, pieces), path) // keeps holes
	if err := os.Chmod(path, 0o440); err != nil {
		b.Fatal(err)
	}
	unix.Sync()
	return imagestore.Digest("sha256:" + digits), path
}

// BenchmarkClone compares a clone by the store, durable in a directory of its own, with the least that the file
// system needs for one (bare: the reflink ioctl alone, or one synced header), with "qemu-img create" and with
// "cp" of the same file. Names are key=value, so that ratios can be made of one run.
func BenchmarkClone(b *testing.B) {
	for _, fs := range fileSystems {
		for _, n := range []int64{1, 10, 100} {
			b.Run(fmt.Sprintf("fs=%s/size=%dGiB", fs.kind, n), func(b *testing.B) {
				dir := testhost.LoopFS(b, fs.kind, 4*gib)
				state := filepath.Join(dir, "state")
				if err := open(b, imagestore.Options{Dir: state}).Close(); err != nil {
					b.Fatal(err)
				}
				digest, image := plantImage(b, state, n*gib)
				s := open(b, imagestore.Options{Dir: state})
				b.Run("method=store", func(b *testing.B) { benchmarkStore(b, s, digest) })
				b.Run("method=bare", func(b *testing.B) { benchmarkBare(b, dir, image, fs.method) })
				b.Run("method=qemu-img", func(b *testing.B) {
					each(b, dir, func(path string) {
						run(b, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, path)
					})
				})
			})
		}
		b.Run(fmt.Sprintf("fs=%s/size=1GiB/method=cp", fs.kind), func(b *testing.B) { benchmarkCopy(b, fs.kind) })
	}
}

func benchmarkStore(b *testing.B, s *imagestore.Store, d imagestore.Digest) {
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Clone(b.Context(), key(i), d, 0); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Erase(b.Context(), key(i)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// each times what makes one file, and removes the file off the clock.
func each(b *testing.B, dir string, do func(path string)) {
	path := filepath.Join(dir, "target")
	for b.Loop() {
		do(path)
		b.StopTimer()
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func benchmarkBare(b *testing.B, dir, image, method string) {
	from, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	header := make([]byte, 4096)
	binary.BigEndian.PutUint32(header, 0x514649fb)
	each(b, dir, func(path string) {
		to, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		defer to.Close()
		if method == "reflink" {
			err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
		} else if _, err = to.Write(header); err == nil {
			err = to.Sync()
		}
		if err != nil {
			b.Fatal(err)
		}
	})
}

// benchmarkCopy copies 1 GiB of real data, to the disk.
func benchmarkCopy(b *testing.B, kind string) {
	dir := testhost.LoopFS(b, kind, 4*gib)
	image := filepath.Join(dir, "image")
	run(b, "mv", write(b, gib, map[int64][]byte{0: noise(1, gib)}), image)
	unix.Sync()
	each(b, dir, func(path string) {
		run(b, "cp", "--reflink=never", "--sparse=never", image, path)
		run(b, "sync", strings.TrimSpace(path))
	})
}
