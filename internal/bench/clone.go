package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clones runs the image store's own benchmark, which makes the file systems, and sets its figures side by side.
func clones(ctx context.Context, b *bench) error {
	b.say("clones of %s GiB on three file systems, %s times %s of each", b.plan.cloneSizes, b.plan.cloneCount, b.plan.cloneTimes)
	took := map[string]sample{}
	const prefix = "BenchmarkClone"
	for _, run := range [][]string{
		{"-test.bench", "^" + prefix + "$/^fs=/^size=(" + b.plan.cloneSizes + ")GiB$/^method=(store|bare|qemu-img)$", "-test.benchtime", b.plan.cloneTimes, "-test.count", b.plan.cloneCount},
		{"-test.bench", "^" + prefix + "$/^fs=/^size=1GiB$/^method=cp$", "-test.benchtime", "1x", "-test.count", b.plan.cloneCount},
	} {
		found, err := goBench(ctx, b.root, "imagestore", run...)
		if err != nil {
			return err
		}
		for name, s := range found {
			took[strings.TrimPrefix(name, prefix+"/")] = s
		}
	}
	t := table{title: fmt.Sprintf("Clone of an image, median of %s times %s", b.plan.cloneCount, b.plan.cloneTimes),
		head: []string{"file system", "size", "store", "bare", "over bare", "qemu-img create", "over store", "cp of 1 GiB", "over store"}}
	for _, fs := range []string{"xfs", "btrfs", "ext4"} {
		for size := range strings.SplitSeq(b.plan.cloneSizes, "|") {
			of := func(method string) time.Duration {
				return took["fs="+fs+"/size="+size+"GiB/method="+method].median()
			}
			store, bare, img, cp := of("store"), of("bare"), of("qemu-img"), of("cp")
			if store == 0 || bare == 0 || img == 0 || size == "1" && cp == 0 {
				return fmt.Errorf("the benchmark of the image store gave no figures for %s GiB on %s: %v", size, fs, took)
			}
			row := []string{fs, size + " GiB", ms(store), ms(bare), ms(store - bare), ms(img), ratio(img, store), "", ""}
			if cp != 0 {
				row[7], row[8] = ms(cp), ratio(cp, store)
			}
			t.add(row...)
		}
	}
	t.print(b.out)
	return nil
}

// goBench runs benchmarks of a package and returns what one round of each took, the mean of each of its counts. The
// test program is built first and called itself: go test would not pass on a signal, and leave it running.
func goBench(ctx context.Context, root, room string, args ...string) (map[string]sample, error) {
	program := filepath.Join(root, "build", "bench", room+".test")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./"+room)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(build.Args, " "), err, out)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"-test.run", "^$"}, args...)...)
	cmd.Dir, cmd.Stderr = filepath.Join(root, room), os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second // for its host to be taken down
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return parseBench(string(out)), nil
}

// parseBench reads the lines "BenchmarkName-2  200  1234567 ns/op".
func parseBench(text string) map[string]sample {
	found := map[string]sample{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 4 || f[3] != "ns/op" {
			continue
		}
		name := f[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors; absent when it is 1
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		if ns, err := strconv.ParseFloat(f[2], 64); err == nil {
			found[name] = append(found[name], time.Duration(ns))
		}
	}
	return found
}
