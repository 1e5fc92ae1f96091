package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

const hidden = "(hidden: --secrets)"

// capsuleFields of the block. Passwords in it are those that blank left.
var capsuleFields = []column[wire.Status]{
	{"id", func(s wire.Status) string { return s.VMID }},
	{"title", func(s wire.Status) string { return text(s.Title) }},
	{"state", func(s wire.Status) string { return s.State }},
	{"cause", func(s wire.Status) string { return text(s.Cause) }},
	{"observed", func(s wire.Status) string { return s.Observed }},
	{"mode", func(s wire.Status) string { return s.Mode }},
	{"type", func(s wire.Status) string { return s.Type }},
	{"created", func(s wire.Status) string { return s.CreatedAt + " UTC" }},
	{"image", func(s wire.Status) string { return s.ImageName }},
	{"vcpus", func(s wire.Status) string { return count(s.VCPUs, "") }},
	{"memory", func(s wire.Status) string { return count(s.MemSize, " MB") }},
	{"volume", func(s wire.Status) string { return count(s.VolumeSize, " GB") }},
	{"ssh", func(s wire.Status) string { return address(s.PublicIP, s.SSHPort) }},
	{"ssh login", func(s wire.Status) string { return s.VMInitialLoginID }},
	{"ssh password", func(s wire.Status) string { return s.VMInitialLoginPassword }},
	{"console", func(s wire.Status) string { return count(s.VNCPort, "") }},
	{"console login", func(s wire.Status) string { return s.VNCLoginID }},
	{"console password", func(s wire.Status) string { return s.VNCLoginPassword }},
	{"your role", func(s wire.Status) string { return s.Role }},
	{"members", members},
	{"terms of use", func(s wire.Status) string { return strconv.FormatBool(s.VMTOU) }},
	{"consent", func(s wire.Status) string { return truth(s.Consent) }},
	{"full access", func(s wire.Status) string { return truth(s.FullAccess) }},
	{"nature", func(s wire.Status) string { return text(s.DescNature) }},
	{"requirement", func(s wire.Status) string { return text(s.DescRequirement) }},
	{"links", func(s wire.Status) string { return text(s.DescLinks) }},
	{"outside data", func(s wire.Status) string { return text(s.DescOutsideData) }},
	{"result files", func(s wire.Status) string { return text(s.RRDataFiles) }},
	{"result usage", func(s wire.Status) string { return text(s.RRResultUsage) }},
	{"shared because", func(s wire.Status) string { return text(s.DescShared) }},
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func truth(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

func address(host string, port int) string {
	if port <= 0 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func members(s wire.Status) string {
	var all []string
	for _, r := range s.Roles {
		all = append(all, cmp.Or(r.Email, r.GUID)+" "+r.Role)
	}
	return strings.Join(all, ", ")
}

// blank takes the passwords out, unless they are wanted.
func blank(list []wire.Status, secrets bool) []wire.Status {
	return replacePasswords(list, secrets, func(string) string { return "" })
}

func replacePasswords(list []wire.Status, secrets bool, by func(string) string) []wire.Status {
	out := []wire.Status{}
	for _, s := range list {
		if !secrets {
			s.VNCLoginPassword = by(s.VNCLoginPassword)
			s.VMInitialLoginPassword = by(s.VMInitialLoginPassword)
		}
		out = append(out, s)
	}
	return out
}

// hide says that there is a password where there is one.
func hide(password string) string {
	if password == "" {
		return ""
	}
	return hidden
}

func (a *app) showCommand() *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{
		Use:               "show CAPSULE...",
		Short:             "Describe capsules",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(capsuleCandidates),
	}
	cmd.Flags().BoolVar(&secrets, "secrets", false, "show passwords; they are blank otherwise, with --json too")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveCapsules(ctx, c, args)
		if err != nil {
			return err
		}
		var list []wire.Status
		failed := each(a, which, func(target candidate) error {
			shown, err := c.ShowCapsules(ctx, target.id)
			list = append(list, shown.Status...)
			return err
		})
		if a.json && len(list) > 0 {
			err = a.printJSON(wire.StatusList{Status: blank(list, secrets)})
		} else {
			err = a.printBlocks(replacePasswords(list, secrets, hide))
		}
		if failed != nil {
			return failed
		}
		return err
	})
	return cmd
}

func (a *app) printBlocks(list []wire.Status) error {
	for i, s := range list {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := printBlock(a.out, capsuleFields, s); err != nil {
			return err
		}
	}
	return nil
}
