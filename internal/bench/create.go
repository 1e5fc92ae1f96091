package main

import (
	"context"
	"fmt"
	"time"
)

// creations measures createvm from the request to the operation's end, when the domain is defined. One capsule is there
// all the time: the first lease of an empty network, and the last one to go, make libvirt start dnsmasq anew.
func creations(ctx context.Context, b *bench) error {
	b.say("createvm and deletevm, %d times", b.plan.creations)
	resident, first, err := b.d.create(ctx)
	if err != nil {
		return err
	}
	var created, deleted sample
	var made, gone steps
	for range b.plan.creations {
		op, took, err := b.d.create(ctx)
		if err != nil {
			return err
		}
		created = append(created, took)
		made.add(op, took)
		if op, took, err = b.d.act(ctx, b.d.api.DeleteCapsule, op.Target); err != nil {
			return err
		}
		deleted = append(deleted, took)
		gone.add(op, took)
	}
	_, last, err := b.d.act(ctx, b.d.api.DeleteCapsule, resident.Target)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		name     string
		took     sample
		steps    steps
		extreme  string
		extremum time.Duration
	}{
		{"createvm", created, made, "the host's first", first},
		{"deletevm", deleted, gone, "the host's last", last},
	} {
		t := table{title: fmt.Sprintf("%s, %d times, from the request on the unix socket to the end of the operation", k.name, len(k.took)),
			head: []string{"", "median", "p10", "p90", "share"}}
		t.add(k.name, ms(k.took.median()), ms(k.took.at(0.1)), ms(k.took.at(0.9)), "1.00")
		k.steps.rows(&t, k.took.median())
		t.add(k.extreme, ms(k.extremum), "", "", ratio(k.extremum, k.took.median()))
		t.print(b.out)
	}
	return nil
}
