package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

func TestMain(m *testing.M) {
	if !testhost.Inside() && os.Getenv(envPrograms) == "" { // built outside the host, where the module proxy can be reached
		if err := build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(testhost.ExitSetup)
		}
	}
	testhost.Main(m, testhost.WithLibvirt())
}

func build() error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	p, err := rig.Build(context.Background(), root, "bench", false)
	if err != nil {
		return err
	}
	return os.Setenv(envPrograms, filepath.Dir(p.Capsuled))
}

// Every part that runs inside a host, at its smallest, on real libvirt: each fills its tables and leaves no capsule for
// the next, but scale, which is the last.
func TestPartsInside(t *testing.T) {
	var out bytes.Buffer
	b := &bench{root: "../..", out: &out, plan: plan{creations: 1, pairs: 1, capsules: []int{0, 2}, restarts: 1, scrapes: 1,
		memory:   []memoryPlan{{8, 1, 1, true}},
		fence:    fencePlan{bindings: []int{1, 3}, swaps: 1, looks: 1, rounds: 1, packets: 200, streams: 1},
		verified: verifyPlan{2, 2},
		image:    imagePlan{images: 1000, rounds: 1, batch: 1, clients: 5, each: 1, crowds: 1, writes: 1, fileMB: 4, imports: 1},
	}}
	all, err := choose("")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.run(t.Context(), all, before); err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(t.Context(), b.plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Kill)
	b.d = d
	t.Run("what fails is not measured", func(t *testing.T) { refusals(t, d) })
	for _, p := range parts {
		if p.place != beside {
			continue
		}
		if err := p.run(t.Context(), b); err != nil {
			t.Fatalf("%s: %v\n%s", p.name, err, d.logged())
		}
		list, err := d.api.ListCapsules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if p.name == "scale" {
			want = 2
		}
		if len(list.VMsInfo) != want {
			t.Errorf("%s left %d capsules, and should leave %d", p.name, len(list.VMsInfo), want)
		}
	}
	for _, row := range []string{"| createvm ", "| step clone ", "| deletevm ", "| step erase ", "| launchvm ", "| virsh start ", "| virDomainCreate ", "| step fence ", "| 0  ", "| 2  ", "| less virsh start of the same round ",
		"| 8 MiB ", "| step clean-point ", "| step mount ", "| bare virDomainSnapshotCreateXML ", "| bare virDomainRestoreFlags, paused ",
		"| secure, in no rule ", "| secure  ", "| libvirtd ",
		"| Nova, detail  ", "| Glance ", "| Synnefo 2.0, all in detail ", "| Nova, merge of one item ", "| bare handler with one transaction ", "| image from a file ", "| image sent ", "| cp, and sync "} {
		if !strings.Contains(out.String(), "\n"+row) {
			t.Errorf("there is no row %q", row)
		}
	}
	if n := strings.Count(out.String(), "\n| 2  "); n != 2 { // memory, and the creations that led there
		t.Errorf("there are %d rows of 2 capsules", n)
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// refusals are calls that must be errors, so that no figure is made of them.
func refusals(t *testing.T, d *daemon) {
	const nothing = "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10"
	if _, _, err := d.act(t.Context(), d.api.LaunchCapsule, nothing); err == nil {
		t.Error("a capsule that is not there was launched")
	}
	op, _, err := d.create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.api.ShowCapsules(t.Context(), op.Target)
	if err != nil || len(list.Status) != 1 {
		t.Fatalf("%v: %v", list, err)
	}
	console, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", list.Status[0].VNCPort))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.act(t.Context(), d.api.LaunchCapsule, op.Target); err == nil {
		t.Error("a launch succeeded whose console has no port")
	}
	if err := console.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := d.act(t.Context(), d.api.DeleteCapsule, op.Target); err != nil {
		t.Error(err)
	}
	defer func(image string) { d.image = image }(d.image)
	d.image = nothing
	if _, _, err := d.create(t.Context()); err == nil {
		t.Error("a capsule was made of an image that is not there")
	}
}

func TestParseBench(t *testing.T) {
	got := parseBench(`goos: linux
cpu: Model 12 GHz
BenchmarkClone/fs=xfs/size=1GiB/method=store-2         	     200	   1234567 ns/op
BenchmarkClone/fs=xfs/size=1GiB/method=store-2         	     200	   1234569 ns/op
BenchmarkClone/fs=xfs/size=1GiB/method=qemu-img        	       5	     12.5 ns/op	 3 B/op
BenchmarkClone/fs=xfs/size=1GiB/method=cp-2
PASS
ok  	github.com/capsuled/capsuled/imagestore	1.2s
`)
	want := map[string]sample{
		"BenchmarkClone/fs=xfs/size=1GiB/method=store":    {1234567, 1234569},
		"BenchmarkClone/fs=xfs/size=1GiB/method=qemu-img": {12},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSample(t *testing.T) {
	s := sample{50, 10, 40, 20, 30}
	for share, want := range map[float64]time.Duration{0: 10, 0.1: 10, 0.5: 30, 0.9: 50, 1: 50} {
		if got := s.at(share); got != want {
			t.Errorf("at %v: %d, should be %d", share, got, want)
		}
	}
	if s[0] != 50 {
		t.Error("the order of rounds was lost")
	}
	if got := sample(nil).median(); got != 0 {
		t.Errorf("nothing has the median %d", got)
	}
}

func TestTable(t *testing.T) {
	tab := table{title: "Title", head: []string{"", "median"}}
	tab.add("longer", ms(1500*time.Microsecond))
	tab.add("s", ratio(3*time.Second, 2*time.Second))
	var out bytes.Buffer
	tab.print(&out)
	want := `
Title

|        |  median |
| ------ | ------: |
| longer | 1.50 ms |
| s      |    1.50 |
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestChoose(t *testing.T) {
	if _, err := choose("clone,nothing"); err == nil {
		t.Error("a part that is not there was chosen")
	}
	some, err := choose("scale,clone")
	if err != nil || len(some) != 2 || some[0].name != "scale" {
		t.Errorf("%v %v", some, err)
	}
	if all, err := choose(""); err != nil || len(all) != len(parts) {
		t.Errorf("%v %v", all, err)
	}
}
