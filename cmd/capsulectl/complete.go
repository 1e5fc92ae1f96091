package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
)

// completionTime bounds how long a shell is kept waiting after the tab key.
const completionTime = 2 * time.Second

// shells and how to load what completion prints for each.
var shells = []struct {
	name, load string
	print      func(root *cobra.Command) error
}{
	{"bash", "capsulectl completion bash > /etc/bash_completion.d/capsulectl",
		func(root *cobra.Command) error { return root.GenBashCompletionV2(root.OutOrStdout(), true) }},
	{"zsh", `capsulectl completion zsh > "${fpath[1]}/_capsulectl"`,
		func(root *cobra.Command) error { return root.GenZshCompletion(root.OutOrStdout()) }},
	{"fish", "capsulectl completion fish > ~/.config/fish/completions/capsulectl.fish",
		func(root *cobra.Command) error { return root.GenFishCompletion(root.OutOrStdout(), true) }},
}

func completionCommand() *cobra.Command {
	cmd := group("completion", "Print completion for a shell")
	cmd.Long = "Print completion for a shell. It completes commands, flags, and by asking the daemon the ids of what there is."
	for _, s := range shells {
		cmd.AddCommand(&cobra.Command{
			Use: s.name, Short: "Print completion for " + s.name, Args: cobra.NoArgs, Example: "  " + s.load,
			DisableFlagsInUseLine: true,
			RunE:                  func(cmd *cobra.Command, _ []string) error { return s.print(cmd.Root()) },
		})
	}
	return cmd
}

// complete offers the candidates that begin with what was typed, by id, or by name where there is one. A daemon that
// cannot be asked offers nothing: the command itself will say why.
func (a *app) complete(list func(context.Context, *client.Client) ([]candidate, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		among, err := list(ctx, c)
		if err != nil {
			cobra.CompDebugln(fmt.Sprintf("no completions: %s", printable(err.Error())), false)
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var offers []cobra.Completion
		for _, o := range among {
			if slices.Contains(args, o.id) || !plain(o.id) {
				continue
			}
			if strings.HasPrefix(o.id, typed) {
				offers = append(offers, cobra.CompletionWithDesc(o.id, printable(strings.TrimSpace(o.name+" "+o.note))))
			}
			if typed != "" && plain(o.name) && strings.HasPrefix(o.name, typed) && !slices.Contains(args, o.name) {
				offers = append(offers, cobra.CompletionWithDesc(o.name, printable(o.note)))
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeInTurn completes the first argument by the first function, and so on; after the last there is nothing to offer.
func (a *app) completeInTurn(each ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(each) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return each[len(args)](cmd, args, typed)
	}
}

// plain reports whether a word can go on a command line as it is: a name is somebody else's text, and what completion
// inserts is run by the shell.
func plain(s string) bool {
	ok := func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	return s != "" && s[0] != '-' && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}
