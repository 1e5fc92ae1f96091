package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what makes the host unfit",
		Long: fmt.Sprintf(`Have the daemon look at what it needs of the host: kernel settings, firewall back-ends, other programs' rules. Prints a line
for each thing, "ok" or "warn", and for the latter what to do. The exit status is %d when one is not as it should be.`, exitNotProved),
		Example: "  capsulectl doctor",
		Args:    cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Doctor(ctx)
			if err != nil {
				return err
			}
			var verdict error
			tw := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, f := range list.Findings {
				mark, text := "ok", f.Detail
				if !f.OK {
					mark, text = "warn", strings.TrimSuffix(f.Detail+": "+f.Advice, ": ")
					verdict = reported{answerError{status: exitNotProved}}
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\n", mark, printable(f.Name), printable(text))
			}
			if a.json {
				err = a.printJSON(list)
			} else {
				err = tw.Flush()
			}
			if err != nil {
				return err
			}
			return verdict
		}),
	}
}
