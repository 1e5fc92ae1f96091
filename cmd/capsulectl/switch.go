package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
)

// capsuleModes that switch takes.
var capsuleModes = []string{"secure", "maintenance"}

func (a *app) switchCommand() *cobra.Command {
	var review, wait bool
	cmd := &cobra.Command{
		Use:   "switch CAPSULE secure|maintenance",
		Short: "Take a running capsule to the other mode",
		Long: `Take a running capsule to the other mode. Into secure mode: it is closed off, its clean point is taken, then its
data is attached, and the secure policy of its type is put in force. Back to maintenance: all that was written but on the
secure volume and the results spool is forgotten. Prints the id of the operation begun; with --wait nothing is printed on
standard output, and the exit status tells how it ended.`,
		Example: `  capsulectl switch cap-0a1b2c3d secure --wait
  capsulectl switch 0a1b maintenance`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates),
			cobra.FixedCompletions(capsuleModes, cobra.ShellCompDirectiveNoFileComp)),
	}
	cmd.Flags().BoolVar(&review, "review", false, "secure mode under the policy for review; administrators only")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		mode := strings.ToLower(args[1])
		switch {
		case !slices.Contains(capsuleModes, mode):
			return usagef("%q is no mode: secure and maintenance are", args[1])
		case review && mode != "secure":
			return usagef("--review goes with secure mode: there is nothing to review without the data")
		}
		which, err := resolveCapsules(ctx, c, args[:1])
		if err != nil {
			return err
		}
		begin := func(c *client.Client, ctx context.Context, vmid string) (string, error) {
			return c.SwitchCapsule(ctx, vmid, mode, review)
		}
		return a.act(ctx, c, verb{"switch", begin}, which, wait)
	})
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	cmd := a.lifecycle("resume", "Bring capsules back that are held", (*client.Client).ResumeCapsule, nil)
	cmd.Long = `Bring back capsules that are held: in ERROR with a mode, closed, and paused or not running. Each goes to the mode
it was in when it can be proved safe there, else to maintenance from its clean point. (To give up what was done in
secure mode instead: capsulectl stop.) ` + lifecycleHelp
	cmd.Example = "  capsulectl resume 0a1b --wait"
	return cmd
}

func (a *app) setCommand() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "set CAPSULE --type TYPE",
		Short: "Change what a capsule is for",
		Long: `Change the type of a capsule, which chooses its secure policy: DEMO and RESEARCH share one, RESEARCH-FULL has its
own. For a capsule in secure mode the other policy is in force when the command returns; where it cannot be put in force
the type stays as it was. Administrators only.`,
		Example:           "  capsulectl set 0a1b --type RESEARCH-FULL",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
	}
	cmd.Flags().StringVar(&kind, "type", "", strings.Join(capsuleTypes, ", ")+" (required)")
	cmd.MarkFlagRequired("type")
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(capsuleTypes, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		if kind = strings.ToUpper(kind); !slices.Contains(capsuleTypes, kind) {
			return usagef("--type must be one of %s", strings.Join(capsuleTypes, ", "))
		}
		which, err := resolveCapsules(ctx, c, args)
		if err != nil {
			return err
		}
		return c.SetCapsuleType(ctx, which[0].id, kind)
	})
	return cmd
}
