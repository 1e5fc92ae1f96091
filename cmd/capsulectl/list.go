package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// capsuleColumns of the list.
var capsuleColumns = []column[wire.Status]{
	{"ID", func(s wire.Status) string { return s.VMID }},
	{"STATE", func(s wire.Status) string { return s.State }},
	{"MODE", func(s wire.Status) string { return s.Mode }},
	{"OBSERVED", func(s wire.Status) string { return s.Observed }},
	{"TYPE", func(s wire.Status) string { return s.Type }},
	{"VCPUS", func(s wire.Status) string { return count(s.VCPUs, "") }},
	{"MEMORY", func(s wire.Status) string { return count(s.MemSize, " MB") }},
	{"SSH", func(s wire.Status) string { return count(s.SSHPort, "") }},
	{"VNC", func(s wire.Status) string { return count(s.VNCPort, "") }},
	{"IMAGE", func(s wire.Status) string { return s.ImageName }},
	{"OWNER", owner},
	{"CREATED", func(s wire.Status) string { return age(s.CreatedAt, time.Now()) }},
}

// count is a number with its unit, or "" where the daemon gives none: 0, or -1 in what the caller may not see.
func count(n int, unit string) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n) + unit
}

// owner is the address of the owner, or failing that the guid.
func owner(s wire.Status) string {
	i := slices.IndexFunc(s.Roles, func(r wire.Role) bool { return r.Role == "OWNER_CONTROLLER" || r.Role == "OWNER" })
	if i < 0 {
		return ""
	}
	return cmp.Or(s.Roles[i].Email, s.Roles[i].GUID)
}

// age is how long ago a time of the capsule dialect was, in one unit; what is no such time stays as it is.
func age(created string, now time.Time) string {
	t, err := time.Parse(time.DateTime, created)
	if err != nil {
		return created
	}
	return ago(now.Sub(t))
}

func ago(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.size {
			return strconv.Itoa(int(d/u.size)) + u.name
		}
	}
	return strconv.Itoa(int(max(0, d)/time.Second)) + "s"
}

func (a *app) listCommand() *cobra.Command {
	var quiet bool
	var secrets bool
	cmd := &cobra.Command{Use: "list", Short: "List capsules: yours, or as an administrator all of the host", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	cmd.Flags().BoolVar(&secrets, "secrets", false, "with --json, do not blank passwords")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		list, err := capsules(ctx, c)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(wire.StatusList{Status: blank(list, secrets)})
		case quiet:
			for _, s := range list {
				fmt.Fprintln(a.out, printable(s.VMID))
			}
			return nil
		}
		return printTable(a.out, capsuleColumns, list)
	})
	return cmd
}

// atOnce is how many calls describe capsules at the same time.
const atOnce = 8

// capsules describes every capsule that the caller may know of, oldest first. /show without an id describes only those
// in which the caller has a role, and /listvms all but with less of each: what the one lacks is asked for singly.
func capsules(ctx context.Context, c *client.Client) ([]wire.Status, error) {
	own, err := c.ShowCapsules(ctx, "")
	if err != nil {
		return nil, err
	}
	all, err := c.ListCapsules(ctx)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, v := range all.VMsInfo {
		if !slices.ContainsFunc(own.Status, func(s wire.Status) bool { return s.VMID == v.VMID }) {
			others = append(others, v.VMID)
		}
	}
	shown, err := showEach(ctx, c, others)
	if err != nil {
		return nil, err
	}
	list := append(own.Status, shown...)
	slices.SortStableFunc(list, func(x, y wire.Status) int {
		return cmp.Or(cmp.Compare(x.CreatedAt, y.CreatedAt), cmp.Compare(x.VMID, y.VMID))
	})
	return list, nil
}

// showEach describes each capsule. One that went meanwhile is left out.
func showEach(ctx context.Context, c *client.Client, ids []string) ([]wire.Status, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found := make([][]wire.Status, len(ids))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			shown, err := c.ShowCapsules(ctx, id)
			if err != nil && !client.Is(err, client.NotFound) {
				cancel(err) // the first error ends the other calls, and is the one returned
			}
			found[i] = shown.Status
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}
