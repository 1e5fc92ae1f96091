package firewall

import (
	"fmt"
	"os/exec"
	"testing"
)

// A change of one binding among others; closing and opening in turn.
func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("among-%d", n), func(b *testing.B) {
			c, all := loaded(b, n)
			for i := range b.N {
				next := all[0]
				if i%2 == 0 {
					next = next.closed()
				}
				if err := c.Put(b.Context(), next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The whole set: on an empty host, and where nothing is to be done.
func BenchmarkApply(b *testing.B) {
	b.Run("1000-new", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			c, all := loaded(b, 0)
			all = bindings(c.opt, 1000)
			b.StartTimer()
			if err := c.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("1000-same", func(b *testing.B) {
		c, all := loaded(b, 1000)
		for b.Loop() {
			if err := c.Apply(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func loaded(b *testing.B, n int) (*Chains, []Binding) {
	b.Helper()
	if out, err := exec.CommandContext(b.Context(), "nft", "flush", "ruleset").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	o := options("192.168.48.0/20")
	c, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	all := bindings(o, n)
	if err := c.Apply(b.Context(), all); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	return c, all
}
