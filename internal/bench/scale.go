package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/internal/rig"
)

// tail is how many of the last creations before a count was reached speak for it.
const tail = 20

// scale measures the daemon with more and more capsules, defined and not running: memory, restart and a scrape, and what
// a creation costs when so many are there already.
func scale(ctx context.Context, b *bench) error {
	t := table{title: fmt.Sprintf("The daemon with capsules that are defined and do not run, medians of %d restarts and %d scrapes", b.plan.restarts, b.plan.scrapes),
		head: []string{"capsules", "resident after createvm", "after restart", "its own (anonymous)", "peak", "start to READY", "/metrics", "bytes", "to /healthz"}}
	growth := table{title: fmt.Sprintf("createvm among so many, medians of the last %d", tail), head: []string{"capsules", "createvm"}}
	made := 0
	for _, n := range b.plan.capsules {
		b.say("memory, restart and /metrics with %d capsules", n)
		var created sample
		var parts steps
		for ; made < n; made++ {
			op, took, err := b.d.create(ctx)
			if err != nil {
				return err
			}
			if n-made <= tail {
				created = append(created, took)
				parts.add(op, took)
			}
		}
		if len(created) > 0 {
			row := []string{strconv.Itoa(n), ms(created.median())}
			growth.head = growth.head[:2]
			for _, name := range parts.names {
				growth.head, row = append(growth.head, name), append(row, ms(parts.took[name].median()))
			}
			growth.head, row = append(growth.head, "request, journal, outcome"), append(row, ms(parts.rest.median()))
			growth.add(row...)
		}
		row, err := b.d.measure(ctx, b.plan, n)
		if err != nil {
			return err
		}
		t.add(append([]string{strconv.Itoa(n)}, row...)...)
	}
	t.print(b.out)
	growth.print(b.out)
	return nil
}

// measure fills the columns behind the first.
func (d *daemon) measure(ctx context.Context, p plan, capsules int) ([]string, error) {
	made, err := d.memory()
	if err != nil {
		return nil, err
	}
	var starts sample
	for range p.restarts {
		took, err := d.restart()
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
		took, n, err := d.fetch(ctx, "/metrics")
		if err != nil {
			return nil, err
		}
		scrapes, size = append(scrapes, took), n
		if took, _, err = d.fetch(ctx, "/healthz"); err != nil {
			return nil, err
		}
		pings = append(pings, took)
	}
	now, err := d.memory()
	if err != nil {
		return nil, err
	}
	return []string{mib(made.resident), mib(now.resident), mib(now.anonymous), mib(now.peak), ms(starts.median()),
		ms(scrapes.median()), strconv.Itoa(size), ratio(scrapes.median(), pings.median())}, nil
}

// fetch times one request on a connection of its own, as a scrape is one.
func (d *daemon) fetch(ctx context.Context, path string) (took time.Duration, size int, err error) {
	began := time.Now()
	status, body, err := d.Get(ctx, path)
	took = time.Since(began)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", path, status, body)
	}
	return took, len(body), err
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
