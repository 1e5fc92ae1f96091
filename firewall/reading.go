package firewall

import (
	"context"
	"slices"
	"sync"
)

// reading is the outcome of reading all rules back, and the generation of nf_tables that was read. As long as
// neither the generation nor what is wanted changed, reading again would say the same.
type reading struct {
	generation uint32
	diffs      []string
}

// read says what is not as wanted. It reads nothing again that nobody can have changed.
func (c *Chains) read(ctx context.Context) ([]string, error) {
	before, err := c.tables.generation()
	if err != nil {
		return nil, err
	}
	if c.reading != nil && c.reading.generation == before {
		return slices.Clone(c.reading.diffs), nil
	}
	c.reading = nil
	var wantBridge elements
	var want4 ruleSet
	var blocks map[string][]string
	var wg sync.WaitGroup
	wg.Go(func() {
		wantBridge, want4 = c.opt.compileBridge(c.want), c.opt.compileIP4(c.want)
		blocks = c.opt.wantedBlocks(c.want.policies)
	})
	have, err := observe(ctx)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	diffs := slices.Concat(have.bridge.differences(wantBridge, blocks),
		ip4.differences(have.ip4, want4), ip6.differences(have.ip6, c.opt.compileIP6()))
	after, err := c.tables.generation()
	if err != nil {
		return nil, err
	}
	if c.nft && before == after { // what was read is of one generation
		c.reading = &reading{after, slices.Clone(diffs)}
	}
	return diffs, nil
}

// stillRight says whether the kernel was read back without a difference and not changed since.
func (c *Chains) stillRight(ctx context.Context) bool {
	if ctx.Err() != nil || c.reading == nil || len(c.reading.diffs) > 0 {
		return false
	}
	now, err := c.tables.generation()
	return err == nil && now == c.reading.generation
}
