package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// verb is a call that begins an operation on one capsule.
type verb struct {
	kind  string
	begin func(c *client.Client, ctx context.Context, vmid string) (operation string, err error)
}

func (a *app) launchCommand() *cobra.Command {
	return a.lifecycle("launch", "Start capsules that are shut down", (*client.Client).LaunchCapsule, nil)
}

func (a *app) stopCommand() *cobra.Command {
	return a.lifecycle("stop", "Shut capsules down", (*client.Client).StopCapsule, nil)
}

func (a *app) deleteCommand() *cobra.Command {
	var yes bool
	cmd := a.lifecycle("delete", "Destroy capsules and everything they own", (*client.Client).DeleteCapsule,
		func(ctx context.Context, which []candidate) error { return a.confirm(ctx, yes, "capsule", which) })
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask; needed when there is no terminal to ask on")
	return cmd
}

const lifecycleHelp = `Prints the id of each operation begun, one to a line; with --wait nothing is
printed on standard output, and the exit status tells how it ended. If one of several is refused, the others are done
all the same, and the exit status is that of the first error.`

// lifecycle is a command that does one thing to several capsules. It prints the ids of the operations it began, or
// with --wait how they go. confirm, if not nil, is asked before anything is done.
func (a *app) lifecycle(kind, short string, begin func(*client.Client, context.Context, string) (string, error),
	confirm func(context.Context, []candidate) error) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:               kind + " CAPSULE...",
		Short:             short,
		Long:              short + ". " + lifecycleHelp,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(capsuleCandidates),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveCapsules(ctx, c, args)
		if err != nil {
			return err
		}
		if confirm != nil {
			if err := confirm(ctx, which); err != nil {
				return err
			}
		}
		return a.act(ctx, c, verb{kind, begin}, which, wait)
	})
	return cmd
}

// act begins all the operations, then waits for them if asked to.
func (a *app) act(ctx context.Context, c *client.Client, v verb, which []candidate, wait bool) error {
	var begun []pending
	refused := each(a, which, func(target candidate) error {
		operation, err := v.begin(c, ctx, target.id)
		if err != nil {
			return err
		}
		begun = append(begun, pending{operation, v.kind, target.id})
		return nil
	})
	if errors.Is(refused, context.Canceled) && len(begun) > 0 {
		return interrupted(begun)
	}
	err := a.report(ctx, c, begun, wait)
	if refused != nil {
		return refused
	}
	return err
}

// report prints the operations begun: ids, or as JSON the operations, after their end if they are waited for.
func (a *app) report(ctx context.Context, c *client.Client, begun []pending, wait bool) error {
	list := wire.OperationList{Operations: []wire.Operation{}}
	var err error
	switch {
	case wait:
		list.Operations, err = a.wait(ctx, c, begun)
	case a.json:
		err = each(a, begun, func(p pending) error {
			op, err := c.Operation(ctx, p.id, 0)
			if err == nil {
				list.Operations = append(list.Operations, op)
			}
			return err
		})
	default:
		for _, p := range begun {
			fmt.Fprintln(a.out, p.id)
		}
	}
	if a.json && len(begun) > 0 && !errors.Is(err, context.Canceled) {
		return errors.Join(err, a.printJSON(list))
	}
	return err
}
