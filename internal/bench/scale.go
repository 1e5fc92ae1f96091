package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
)

// scale measures the daemon with more and more capsules, defined and not running: memory, restart and a scrape.
func scale(ctx context.Context, b *bench) error {
	t := table{title: fmt.Sprintf("The daemon with capsules that are defined, medians of %d restarts and %d scrapes", b.plan.restarts, b.plan.scrapes),
		head: []string{"capsules", "createvm", "resident, made", "resident, restarted", "peak", "restart to READY", "/metrics", "bytes", "to /healthz"}}
	made := 0
	for _, n := range b.plan.capsules {
		b.say("memory, restart and /metrics with %d capsules", n)
		var created sample
		for ; made < n; made++ {
			_, took, err := b.d.create(ctx)
			if err != nil {
				return err
			}
			created = append(created, took)
		}
		row, err := b.d.measure(ctx, b.plan, n)
		if err != nil {
			return err
		}
		last := "-"
		if len(created) > 0 {
			last = ms(created[len(created)-min(20, len(created)):].median())
		}
		t.add(append([]string{strconv.Itoa(n), last}, row...)...)
	}
	t.print(b.out)
	return nil
}

// measure fills the columns behind the first two.
func (d *daemon) measure(ctx context.Context, p plan, capsules int) ([]string, error) {
	made, _, err := d.memory()
	if err != nil {
		return nil, err
	}
	var starts sample
	for range p.restarts {
		took, err := d.reboot()
		if err != nil {
			return nil, err
		}
		starts = append(starts, took)
	}
	if err := d.collected(ctx, capsules); err != nil {
		return nil, err
	}
	var scrapes, pings sample
	size := 0
	for range p.scrapes {
		for path, into := range map[string]*sample{"/metrics": &scrapes, "/healthz": &pings} {
			began := time.Now()
			status, body, err := d.Get(ctx, path)
			took := time.Since(began)
			if err != nil || status != 200 {
				return nil, fmt.Errorf("%s: status %d: %w", path, status, err)
			}
			*into = append(*into, took)
			if path == "/metrics" {
				size = len(body)
			}
		}
	}
	now, peak, err := d.memory()
	if err != nil {
		return nil, err
	}
	return []string{mib(made), mib(now), mib(peak), ms(starts.median()), ms(scrapes.median()), strconv.Itoa(size), ratio(scrapes.median(), pings.median())}, nil
}

// collected waits until the statistics of all capsules are in /metrics.
func (d *daemon) collected(ctx context.Context, capsules int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.Until(ctx, func() error {
		_, body, err := d.Get(ctx, "/metrics")
		if err != nil {
			return err
		}
		if !strings.Contains(body, fmt.Sprintf("\nlibvirt_domains %d\n", capsules)) {
			return fmt.Errorf("/metrics does not show %d domains yet", capsules)
		}
		return nil
	})
}
