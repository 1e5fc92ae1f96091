package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

var operationColumns = []column[wire.Operation]{
	{"ID", func(op wire.Operation) string { return op.ID }},
	{"KIND", func(op wire.Operation) string { return op.Kind }},
	{"TARGET", func(op wire.Operation) string { return op.Target }},
	{"STATE", func(op wire.Operation) string { return op.State }},
	{"STEP", func(op wire.Operation) string { return op.Step }},
	{"DONE", func(op wire.Operation) string { return strconv.Itoa(op.Progress) + "%" }},
	{"TOOK", duration},
	{"STARTED", func(op wire.Operation) string { return ago(time.Since(op.Started)) }},
	{"ACTOR", func(op wire.Operation) string { return op.Actor }},
	{"CAUSE", func(op wire.Operation) string { return op.Cause }},
}

var operationFields = []column[wire.Operation]{
	{"id", func(op wire.Operation) string { return op.ID }},
	{"kind", func(op wire.Operation) string { return op.Kind }},
	{"target", func(op wire.Operation) string { return op.Target }},
	{"state", func(op wire.Operation) string { return op.State }},
	{"progress", func(op wire.Operation) string { return strconv.Itoa(op.Progress) + "%" }},
	{"code", func(op wire.Operation) string { return op.Code }},
	{"cause", func(op wire.Operation) string { return op.Cause }},
	{"actor", func(op wire.Operation) string { return op.Actor }},
	{"started", func(op wire.Operation) string { return op.Started.UTC().Format(time.RFC3339) }},
	{"took", duration},
}

var stepColumns = []column[wire.Step]{
	{"STEP", func(s wire.Step) string { return s.Name }},
	{"STATE", func(s wire.Step) string { return s.State }},
	{"TOOK", func(s wire.Step) string {
		if s.State == "pending" {
			return ""
		}
		return seconds(s.Seconds)
	}},
	{"NOTE", func(s wire.Step) string { return s.Note }},
}

// duration of an operation that has ended.
func duration(op wire.Operation) string {
	if op.Ended == nil {
		return ""
	}
	return seconds(op.Ended.Sub(op.Started).Seconds())
}

func (a *app) operationCommand() *cobra.Command {
	return group("operation", "Follow what the daemon does", a.operationListCommand(), a.operationShowCommand(), a.operationWaitCommand(),
		a.operationCancelCommand())
}

func (a *app) operationListCommand() *cobra.Command {
	var f client.OperationFilter
	cmd := &cobra.Command{Use: "list", Short: "List operations, newest first", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&f.Target, "target", "", "only those on this capsule or image (whole id)")
	cmd.Flags().StringVar(&f.State, "state", "", "only those that are running, succeeded or failed")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most so many (the daemon's own limit otherwise)")
	states := []string{"running", "succeeded", "failed"}
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("target", a.complete(capsuleCandidates))
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if f.Limit < 0 {
			return usagef("--limit must not be negative")
		}
		list, err := c.Operations(ctx, f)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(list)
		}
		return printTable(a.out, operationColumns, list.Operations)
	})
	return cmd
}

func (a *app) operationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show OPERATION", Short: "Describe an operation and its steps", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(operationCandidates),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			which, err := resolveOperations(ctx, c, args)
			if err != nil {
				return err
			}
			op, err := c.Operation(ctx, which[0].id, 0)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(op)
			}
			if err := printBlock(a.out, operationFields, op); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			return printWide(a.out, stepColumns, op.Steps, longText)
		}),
	}
}

func (a *app) operationWaitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "wait OPERATION...", Short: "Wait until operations have ended",
		Long: `Wait until operations have ended, showing on standard error how they go. The exit status is ` +
			strconv.Itoa(exitFailed) + ` if one failed.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(operationCandidates),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			which, err := resolveOperations(ctx, c, args)
			if err != nil {
				return err
			}
			var begun []pending
			err = each(a, which, func(target candidate) error {
				op, err := c.Operation(ctx, target.id, 0)
				if err == nil {
					begun = append(begun, pending{op.ID, op.Kind, op.Target})
				}
				return err
			})
			if errors.Is(err, context.Canceled) {
				return err
			}
			if failed := a.report(ctx, c, begun, true); err == nil {
				err = failed
			}
			return err
		}),
	}
}

func (a *app) operationCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel OPERATION...", Short: "End operations early, where that can be done; what they did is undone",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(operationCandidates),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			which, err := resolveOperations(ctx, c, args)
			if err != nil {
				return err
			}
			list := wire.OperationList{Operations: []wire.Operation{}}
			err = each(a, which, func(target candidate) error {
				op, err := c.CancelOperation(ctx, target.id)
				if err == nil {
					list.Operations = append(list.Operations, op)
				}
				return err
			})
			if a.json && len(list.Operations) > 0 {
				return errors.Join(err, a.printJSON(list))
			}
			return err
		}),
	}
}
