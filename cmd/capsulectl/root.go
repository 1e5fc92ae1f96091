package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
)

// app is one run of the command.
type app struct {
	in       io.Reader
	out, err io.Writer

	socket, url, tokenFile, ca string
	json                       bool
	timeout                    time.Duration

	began bool // a command's own code was reached: before that, every error is one of usage
}

// action is what a command does once it has a client.
type action func(ctx context.Context, c *client.Client, args []string) error

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "capsulectl",
		Short: "Manage the capsules of a host",
		Long: `capsulectl manages the capsules, images and operations of one capsuled.

Capsules and operations are named by their id, by any unique beginning of it of at least four characters, and capsules
also as cap-XXXXXXXX. Images are named by id, by a unique beginning of it, or by name.

Environment:
  CAPSULED_SOCKET      as --socket
  CAPSULED_URL         as --url; goes before CAPSULED_SOCKET
  CAPSULED_TOKEN_FILE  as --token-file; not used on a socket

` + exitHelp(),
		Version:       ownVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.CompletionOptions.DisableDefaultCmd = true // ours says what it completes, and names the three shells
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", "", "unix socket of the daemon (default "+client.DefaultSocket+")")
	flags.StringVar(&a.url, "url", "", "address of the daemon, http://... or https://...")
	flags.StringVar(&a.tokenFile, "token-file", "", "file with the token to send to --url")
	flags.StringVar(&a.ca, "ca", "", "PEM file with the authorities to trust for --url")
	flags.BoolVar(&a.json, "json", false, "print the daemon's reply as one JSON document")
	flags.DurationVar(&a.timeout, "timeout", client.DefaultTimeout, "longest time for one call to the daemon")
	root.MarkFlagsMutuallyExclusive("socket", "url")
	root.MarkFlagsMutuallyExclusive("socket", "token-file")
	root.MarkFlagsMutuallyExclusive("socket", "ca")

	root.AddCommand(a.imageCommand(), a.createCommand(), a.launchCommand(), a.listCommand(), a.showCommand(),
		a.stopCommand(), a.deleteCommand(), a.switchCommand(), a.resumeCommand(), a.setCommand(), a.proveCommand(),
		a.recordsCommand(), a.policyCommand(), a.doctorCommand(), a.operationCommand(), a.versionCommand(), completionCommand())
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return cmd.Help()
	}}
	cmd.AddCommand(commands...)
	return cmd
}

// with makes a RunE of an action.
func (a *app) with(act action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.began = true
		c, err := a.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		return act(cmd.Context(), c, args)
	}
}

// connect makes a client of the flags and the environment. A flag goes before every variable.
func (a *app) connect() (*client.Client, error) {
	opt := client.Options{Socket: a.socket, URL: a.url, Timeout: a.timeout, UserAgent: "capsulectl/" + ownVersion()}
	if opt.Socket == "" && opt.URL == "" {
		if opt.URL = os.Getenv("CAPSULED_URL"); opt.URL == "" {
			opt.Socket = os.Getenv("CAPSULED_SOCKET")
		}
	}
	switch {
	case opt.URL != "":
		opt.CAFile = a.ca
		opt.TokenFile = cmp.Or(a.tokenFile, os.Getenv("CAPSULED_TOKEN_FILE"))
		a.warnExposed(opt.TokenFile)
	case a.tokenFile != "" || a.ca != "":
		return nil, usagef("--token-file and --ca are of use with --url only")
	}
	if a.timeout <= 0 {
		return nil, usagef("--timeout must be more than 0")
	}
	c, err := client.New(opt)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// warnExposed warns of a file with a secret that everybody on this machine can read.
func (a *app) warnExposed(file string) {
	if file == "" {
		return
	}
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 {
		fmt.Fprintf(a.err, "capsulectl: warning: %s can be read by everybody: chmod 600\n", printable(file))
	}
}
