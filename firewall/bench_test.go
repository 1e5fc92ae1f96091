package firewall

import (
	"context"
	"fmt"
	"os/exec"
	"testing"

	"github.com/capsuled/capsuled/firewall/policy"
)

// A change of one binding among others, closing and opening in turn; and what the programs take that would do
// the same: one iptables-restore of the same text, one nft of the same elements.
func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		c, all := filled(b, n)
		open, closed := all[0], all[0].closed()
		b.Run(fmt.Sprintf("among-%d", n), func(b *testing.B) {
			for i := range b.N {
				if err := c.Put(b.Context(), []Binding{closed, open}[i%2]); err != nil {
					b.Fatal(err)
				}
			}
			if err := c.Put(b.Context(), open); err != nil {
				b.Fatal(err)
			}
		})
		after := c.want.with(closed)
		touched := []Binding{open, closed}
		b.Run(fmt.Sprintf("among-%d-bare-iptables-restore", n), func(b *testing.B) {
			texts := []string{c.opt.swapText(c.want, after, touched), c.opt.swapText(after, c.want, touched)}
			for i := range b.N + b.N%2 {
				if err := ip4.load(b.Context(), texts[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("among-%d-bare-nft", n), func(b *testing.B) {
			was, will := c.opt.compileBridge(wants(c.opt, []Binding{open})), c.opt.compileBridge(wants(c.opt, []Binding{closed}))
			texts := []string{elementText(was, will), elementText(will, was)}
			for i := range b.N + b.N%2 {
				if err := loadBridge(b.Context(), texts[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A binding that comes and goes among others.
func BenchmarkPutDrop(b *testing.B) {
	c, all := filled(b, 1000)
	for b.Loop() {
		if err := c.Drop(b.Context(), all[500].Tap); err != nil {
			b.Fatal(err)
		}
		if err := c.Put(b.Context(), all[500]); err != nil {
			b.Fatal(err)
		}
	}
}

// The whole set: on an empty host, by a process that finds it done, and by the one that did it; and the bare
// programs that read all of it.
func BenchmarkApply(b *testing.B) {
	b.Run("1000-new", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			c, _ := filled(b, 0)
			all := bindings(c.opt, 1000)
			b.StartTimer()
			if err := c.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
	c, all := filled(b, 1000)
	b.Run("1000-found", func(b *testing.B) {
		for b.Loop() {
			anew, err := New(c.opt)
			if err != nil {
				b.Fatal(err)
			}
			if err := anew.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("1000-same", func(b *testing.B) {
		for b.Loop() {
			if err := c.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("1000-bare-reading", func(b *testing.B) {
		for b.Loop() {
			for _, argv := range [][]string{{ip4.save}, {ip6.save}, {"nft", "--stateless", "list", "table", "bridge", "capsuled"}} {
				if _, err := command(b.Context(), "", argv...); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// Looking whether all is well: where nobody changed a rule, and where somebody did.
func BenchmarkVerify(b *testing.B) {
	for _, changed := range []bool{false, true} {
		b.Run(fmt.Sprintf("1000-changed-%v", changed), func(b *testing.B) {
			c, _ := filled(b, 1000)
			if _, err := c.Verify(b.Context()); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if changed {
					c.reading = nil
				}
				if diffs, err := c.Verify(b.Context()); err != nil || len(diffs) > 0 {
					b.Fatal(diffs, err)
				}
			}
		})
	}
}

// What is compiled for a change of one binding among a thousand.
func BenchmarkCompile(b *testing.B) {
	o := options("192.168.48.0/20")
	all := bindings(o, 1000)
	before := wants(o, all)
	after := before.with(all[0].closed())
	b.Run("swap", func(b *testing.B) {
		for b.Loop() {
			o.swapText(before, after, []Binding{all[0]})
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			o.compileIP4(before)
			o.compileBridge(before)
		}
	})
}

func filled(b *testing.B, n int) (*Chains, []Binding) {
	b.Helper()
	if out, err := exec.CommandContext(b.Context(), "nft", "flush", "ruleset").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(b.Context()), "nft", "flush", "ruleset").Run() })
	o := options("192.168.48.0/20")
	c, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	all := bindings(o, n)
	if err := c.Apply(b.Context(), all); err != nil {
		b.Fatal(err)
	}
	return c, all
}

// Evidence of all bindings, of fifty and of a thousand.
func BenchmarkInspectAll(b *testing.B) {
	for _, n := range []int{50, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c, _ := filled(b, n)
			for b.Loop() {
				if all, err := c.InspectAll(b.Context()); err != nil || len(all) != n {
					b.Fatal(len(all), err)
				}
			}
		})
	}
}

// Another policy among bindings of others: one that none has, and one that half of a hundred have.
func BenchmarkSetPolicies(b *testing.B) {
	for name, used := range map[string]bool{"unused": false, "used-by-50": true} {
		b.Run(name, func(b *testing.B) {
			c, all := filled(b, 100)
			lists := [][]policy.Policy{{maintenance, narrow}, {maintenance, {Name: narrow.Name, Secure: true}}}
			if err := c.SetPolicies(b.Context(), lists[0]); err != nil {
				b.Fatal(err)
			}
			for i := range all {
				if used && i%2 == 0 {
					all[i].Policy = narrow.Name
				}
			}
			if err := c.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
			for i := 1; b.Loop(); i++ {
				if err := c.SetPolicies(b.Context(), lists[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
