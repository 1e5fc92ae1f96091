package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
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

// capsules describes every capsule that the caller may know of, oldest first.
func capsules(ctx context.Context, c *client.Client) ([]wire.Status, error) {
	all, err := c.Capsules(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all.Status, func(x, y wire.Status) int {
		return cmp.Or(cmp.Compare(x.CreatedAt, y.CreatedAt), cmp.Compare(x.VMID, y.VMID))
	})
	return all.Status, nil
}
