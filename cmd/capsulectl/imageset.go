package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

func (a *app) imageSetCommand() *cobra.Command {
	var name, description, user, passwordFile string
	var public, private, protected bool
	var minDisk, minRAM int
	cmd := &cobra.Command{
		Use:   "set IMAGE [KEY=VALUE...]",
		Short: "Change what is said of an image",
		Long: `Change what is said of an image: its name, who may use it, and its properties, each KEY=VALUE. All of it is changed, or
nothing; what is not named stays as it is.`,
		Example:           "  capsulectl image set jammy --name jammy-old --private --protected=false os_distro=ubuntu",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(usedImages)),
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "another name")
	flags.StringVar(&description, "description", "", "what it holds")
	flags.BoolVar(&public, "public", false, "everybody may use it")
	flags.BoolVar(&private, "private", false, "nobody else may use it")
	flags.BoolVar(&protected, "protected", false, "it cannot be deleted; --protected=false takes that back")
	flags.IntVar(&minDisk, "min-disk", 0, "GB of disk that it needs at least")
	flags.IntVar(&minRAM, "min-ram", 0, "MB of memory that it needs at least")
	flags.StringVar(&user, "login-user", "", "first login of the image, shown to those who use it")
	flags.StringVar(&passwordFile, "login-password-file", "", "file with the password of that login, shown likewise")
	cmd.MarkFlagsMutuallyExclusive("public", "private")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		items, err := parseProperties(args[1:])
		if err != nil {
			return err
		}
		change := wire.ImageChange{Metadata: items, Name: said(cmd, "name", &name), Description: said(cmd, "description", &description),
			Protected: said(cmd, "protected", &protected), MinDiskGB: said(cmd, "min-disk", &minDisk), MinRAMMB: said(cmd, "min-ram", &minRAM),
			LoginUser: said(cmd, "login-user", &user)}
		visibility := "private"
		switch {
		case public:
			visibility = "public"
			fallthrough
		case private:
			change.Visibility = &visibility
		}
		if passwordFile != "" {
			password, err := a.readSecretFile(passwordFile)
			if err != nil {
				return err
			}
			change.LoginPassword = &password
		}
		if len(args) == 1 && cmd.Flags().NFlag() == 0 {
			return usagef("say what to change")
		}
		return a.setImage(ctx, c, args[0], change)
	})
	return cmd
}

// said is where a flag's value is, nil when the flag was not given.
func said[T any](cmd *cobra.Command, flag string, value *T) *T {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return value
}

func (a *app) setImage(ctx context.Context, c *client.Client, arg string, change wire.ImageChange) error {
	which, err := resolveImages(ctx, c, []string{arg})
	if err != nil {
		return err
	}
	image, err := c.SetImage(ctx, which[0].id, change)
	if err != nil || !a.json {
		return err
	}
	image.LoginPassword = ""
	return a.printJSON(image)
}

func (a *app) imageUnsetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unset IMAGE KEY...", Short: "Remove properties of an image: all of them, or none if one is not there", Args: cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeInTurn(a.complete(usedImages)),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			return a.setImage(ctx, c, args[0], wire.ImageChange{RemoveMetadata: args[1:]})
		}),
	}
}

func (a *app) imageShareCommand() *cobra.Command {
	var n wire.NewShare
	var wait bool
	cmd := &cobra.Command{
		Use:   "share CAPSULE --name NAME",
		Short: "Make an image of the disk of a capsule that is shut down, and print its id",
		Long: `Make an image of the disk of a capsule that is shut down, cleaned of what must not travel (host keys, authorized keys,
histories and the like, as the daemon's configuration has it), wait until that is done, and print the image's id.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "name of the image (required)")
	cmd.Flags().StringVar(&n.Description, "description", "", "what it holds")
	cmd.Flags().BoolVar(&n.Public, "public", false, "everybody may use it")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is done; --wait=false prints the id at once")
	cmd.MarkFlagRequired("name")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveCapsules(ctx, c, args)
		if err != nil {
			return err
		}
		accepted, err := c.ShareCapsule(ctx, which[0].id, n)
		if err != nil {
			return err
		}
		return a.added(ctx, c, accepted, "share", which[0].id, wait)
	})
	return cmd
}

func (a *app) imageVerifyCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "verify IMAGE...", Short: "Read images again and hold them against their digests",
		Long: "Read all of each image again and hold it against its digest. With --wait the exit status is " + strconv.Itoa(exitFailed) + ` if one is not
what it was.`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(usedImages),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveImages(ctx, c, args)
		if err != nil {
			return err
		}
		begin := func(c *client.Client, ctx context.Context, id string) (string, error) {
			accepted, err := c.VerifyImage(ctx, id)
			return accepted.Operation.ID, err
		}
		return a.act(ctx, c, verb{"image-verify", begin}, which, wait)
	})
	return cmd
}

var wasteColumns = []column[wire.ImageWaste]{
	{"ID", func(w wire.ImageWaste) string { return w.ID }},
	{"NAME", func(w wire.ImageWaste) string { return w.Name }},
	{"SIZE", func(w wire.ImageWaste) string { return size(w.Bytes) }},
	{"DIGEST", func(w wire.ImageWaste) string { return w.Digest }},
	{"KEPT", func(w wire.ImageWaste) string { return w.Kept }},
}

func (a *app) imageCollectCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove images that are deleted and needed by nothing, and files that no record names", Args: cobra.NoArgs,
		Long: `Remove images that are deleted and needed by nothing any more, and files that no record names, as the daemon does by
itself from time to time. What stays is listed with the reason.`,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		list, err := c.CollectImages(ctx, dry)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(list)
		case len(list.Waste) == 0:
			_, err := fmt.Fprintln(a.err, "nothing to collect")
			return err
		}
		return printWide(a.out, wasteColumns, list.Waste, longText)
	})
	return cmd
}
