package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/firewall/policy"
)

var policyColumns = []column[wire.Policy]{
	{"NAME", func(p wire.Policy) string { return p.Name }},
	{"SECURE", func(p wire.Policy) string { return yes(p.Secure) }},
	{"RULES", func(p wire.Policy) string { return strconv.Itoa(p.Rules) }},
	{"CAPSULES", func(p wire.Policy) string { return strconv.Itoa(p.Capsules) }},
	{"DIGEST", func(p wire.Policy) string { return short(p.Digest) }},
	{"SOURCE", func(p wire.Policy) string { return p.Source }},
	{"COMMENT", func(p wire.Policy) string { return p.Comment }},
}

var viewFields = []column[wire.PolicyView]{
	{"policy", func(v wire.PolicyView) string { return v.Policy.Name }},
	{"secure", func(v wire.PolicyView) string { return yes(v.Policy.Secure) }},
	{"source", func(v wire.PolicyView) string { return v.Policy.Source }},
	{"digest", func(v wire.PolicyView) string { return v.Policy.Digest }},
	{"comment", func(v wire.PolicyView) string { return v.Policy.Comment }},
	{"allowed", func(v wire.PolicyView) string { return traffic(v.Allowed) }},
	{"denied", func(v wire.PolicyView) string { return traffic(v.Denied) }},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func traffic(t wire.Traffic) string { return fmt.Sprintf("%d packets, %d bytes", t.Packets, t.Bytes) }

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "What capsules may reach", a.policyListCommand(), a.policyCheckCommand(), a.policyShowCommand(),
		a.policyExplainCommand(), a.policyReloadCommand())
}

func (a *app) policyListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the policies that are loaded", Args: cobra.NoArgs, Example: "  capsulectl policy list",
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Policies(ctx)
			if err != nil {
				return err
			}
			return a.printPolicies(list)
		}),
	}
}

func (a *app) printPolicies(list wire.PolicyList) error {
	if a.json {
		return a.printJSON(list)
	}
	return printWide(a.out, policyColumns, list.Policies, longText)
}

func (a *app) policyReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Put changed policy files in force",
		Long: `Have the daemon read the policy files again and put them in force, for running capsules too. With a fault in any of
them nothing changes, and every fault is printed. To look for faults before: capsulectl policy check.`,
		Example: "  capsulectl policy check /etc/capsuled/policies && capsulectl policy reload",
		Args:    cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.ReloadPolicies(ctx)
			if e, ok := errors.AsType[*client.Error](err); ok && strings.Contains(e.Message, "\n") {
				return a.complainEach(e, e.Message)
			}
			if err != nil {
				return err
			}
			return a.printPolicies(list)
		}),
	}
}

// complainEach prints text, a line for each fault in it, and returns err, reported.
func (a *app) complainEach(err error, text string) error {
	for fault := range strings.Lines(text) {
		fmt.Fprintln(a.err, printable(strings.TrimRight(fault, "\n")))
	}
	return reported{err}
}

func (a *app) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show CAPSULE",
		Short: "Show what is in the kernel for a capsule, against what should be",
		Long: fmt.Sprintf(`Show the policy that a capsule is under, how much it let through and stopped since its rules were last written, and the
rules as the kernel has them. What is not as it should be stands at the end, each line marked with "!"; the exit status is
then %d.`, exitNotProved),
		Example:           "  capsulectl policy show 0a1b",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
		RunE: a.with(about(resolveCapsules, func(ctx context.Context, c *client.Client, vmid string, _ []string) error {
			view, err := c.PolicyView(ctx, vmid)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(view)
			} else {
				err = printView(a.out, view)
			}
			if err == nil && len(view.Differences) > 0 {
				err = reported{answerError{status: exitNotProved}}
			}
			return err
		})),
	}
}

func printView(w io.Writer, view wire.PolicyView) error {
	if err := printBlock(w, viewFields, view); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nin the kernel:")
	for _, rule := range view.Kernel {
		fmt.Fprintf(w, "  %s\n", printable(rule))
	}
	if len(view.Differences) == 0 {
		_, err := fmt.Fprintln(w, "\nas it should be")
		return err
	}
	fmt.Fprintln(w, "\nNOT as it should be:")
	for _, difference := range view.Differences {
		if _, err := fmt.Fprintf(w, "! %s\n", printable(difference)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) policyExplainCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "explain CAPSULE PACKET...",
		Short: "Say what becomes of a packet, and why",
		Long: `Say what would become of a packet of a capsule, and which line decides. A packet is a protocol (tcp, udp, icmp, other), "to" or
"from", and an address, "host", or a name that the policy lists; for tcp and udp with the port that it goes to. With --file no
daemon is asked: the policy is that of the file, every argument is part of the packet, and which addresses are the host's own, and
so closed, is not known.`,
		Example: `  capsulectl policy explain 0a1b tcp to 192.0.2.1:443
  capsulectl policy explain --file secure.toml udp to host:53`,
		Args: func(cmd *cobra.Command, args []string) error {
			if file != "" && len(args) > 0 || len(args) > 1 {
				return nil
			}
			return errors.New("want a capsule and a packet, or --file and a packet")
		},
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
	}
	cmd.Flags().StringVar(&file, "file", "", "policy file to ask, instead of the daemon")
	cmd.MarkFlagFilename("file", "toml", "fw")
	ask := a.with(about(resolveCapsules, func(ctx context.Context, c *client.Client, vmid string, rest []string) error {
		e, err := c.ExplainPacket(ctx, vmid, strings.Join(rest, " "))
		if err != nil {
			return err
		}
		return a.printExplanation(e)
	}))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return ask(cmd, args)
		}
		a.began = true
		e, err := explainFile(file, strings.Join(args, " "))
		if faults, ok := errors.AsType[policy.Faults](err); ok {
			return a.complainEach(err, faults.Error())
		}
		if err != nil {
			return err
		}
		return a.printExplanation(e)
	}
	return cmd
}

func (a *app) printExplanation(e wire.Explanation) error {
	if a.json {
		return a.printJSON(e)
	}
	_, err := fmt.Fprintf(a.out, "%s: %s\n", printable(e.Packet), printable(e.Why))
	return err
}
