package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
)

// versions is what version --json prints. Server is null when the daemon cannot be reached or does not say.
type versions struct {
	Client string  `json:"client"`
	Server *string `json:"server"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this command and of the daemon", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			v := versions{Client: ownVersion()}
			server, err := c.ServerVersion(ctx)
			if err != nil && ctx.Err() != nil {
				return err
			}
			if server != "" {
				v.Server = &server
			}
			if a.json {
				return a.printJSON(v)
			}
			switch {
			case err != nil:
				server = "not known: " + err.Error()
			case server == "":
				server = "not known: it does not say"
			}
			_, err = fmt.Fprintf(a.out, "capsulectl  %s\ncapsuled    %s\n", v.Client, printable(server))
			return err
		}),
	}
}
