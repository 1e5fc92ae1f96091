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
	"time"
)

// clones runs the image store's own benchmark, which makes the file systems, and sets its figures side by side.
func clones(ctx context.Context, b *bench) error {
	b.say("clones of %s GiB on three file systems, %s times %s of each", b.plan.cloneSizes, b.plan.cloneCount, b.plan.cloneTimes)
	took := map[string]sample{}
	const prefix = "BenchmarkClone"
	for _, run := range [][]string{
		{"-bench", "^" + prefix + "$/^fs=/^size=(" + b.plan.cloneSizes + ")GiB$/^method=(store|bare|qemu-img)$", "-benchtime", b.plan.cloneTimes, "-count", b.plan.cloneCount},
		{"-bench", "^" + prefix + "$/^fs=/^size=1GiB$/^method=cp$", "-benchtime", "1x", "-count", b.plan.cloneCount},
	} {
		found, err := goBench(ctx, filepath.Join(b.root, "imagestore"), run...)
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

// goBench runs benchmarks of a package and returns what one round of each took, the mean of each of its counts.
func goBench(ctx context.Context, dir string, args ...string) (map[string]sample, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-run", "^$", "-timeout", "60m"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, out)
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
