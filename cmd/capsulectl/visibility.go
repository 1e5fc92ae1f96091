package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// visibilities are those of an image, from the fewest who may use it to the most.
var visibilities = []string{"private", "shared", "community", "public"}

// completeVisibility offers them for the flag --visibility of a command.
func completeVisibility(cmd *cobra.Command) {
	cmd.RegisterFlagCompletionFunc("visibility", cobra.FixedCompletions(visibilities, cobra.ShellCompDirectiveNoFileComp))
}

// visibilityFlags adds --visibility and its short forms to a command. What it returns says what they say: "" when none was given.
func visibilityFlags(cmd *cobra.Command) func() (string, error) {
	var word string
	var public, private bool
	flags := cmd.Flags()
	flags.StringVar(&word, "visibility", "", "who may use it: private (nobody else), shared or community (who knows its id), or public (everybody)")
	flags.BoolVar(&public, "public", false, "as --visibility public")
	flags.BoolVar(&private, "private", false, "as --visibility private")
	completeVisibility(cmd)
	return func() (string, error) {
		if flags.Changed("visibility") && !slices.Contains(visibilities, word) {
			return "", usagef("--visibility must be one of %s, not %q", strings.Join(visibilities, ", "), word)
		}
		said, by := word, "--visibility "+word
		for _, short := range []struct {
			word string
			on   bool
		}{{"public", public}, {"private", private}} {
			switch flag := "--" + short.word; {
			case !flags.Changed(short.word):
			case !short.on:
				return "", usagef("%s=false does not say who may use the image: use --visibility", flag)
			case said != "" && said != short.word:
				return "", usagef("%s and %s contradict each other", by, flag)
			default:
				said, by = short.word, flag
			}
		}
		return said, nil
	}
}
