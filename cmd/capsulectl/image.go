package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

var imageColumns = []column[wire.Image]{
	{"ID", func(i wire.Image) string { return i.ID }},
	{"NAME", func(i wire.Image) string { return i.Name }},
	{"STATE", func(i wire.Image) string { return i.State }},
	{"FORMAT", func(i wire.Image) string { return i.Format }},
	{"FILE", func(i wire.Image) string { return size(i.FileBytes) }},
	{"DISK", func(i wire.Image) string { return size(i.VirtualBytes) }},
	{"PUBLIC", func(i wire.Image) string { return strconv.FormatBool(i.Public) }},
	{"OWNER", func(i wire.Image) string { return i.Owner }},
	{"CREATED", func(i wire.Image) string { return ago(time.Since(i.CreatedAt)) }},
}

var imageFields = []column[wire.Image]{
	{"id", func(i wire.Image) string { return i.ID }},
	{"name", func(i wire.Image) string { return i.Name }},
	{"description", func(i wire.Image) string { return i.Description }},
	{"state", func(i wire.Image) string { return i.State }},
	{"public", func(i wire.Image) string { return strconv.FormatBool(i.Public) }},
	{"owner", func(i wire.Image) string { return i.Owner }},
	{"digest", func(i wire.Image) string { return i.Digest }},
	{"format", func(i wire.Image) string { return i.Format }},
	{"file", func(i wire.Image) string { return size(i.FileBytes) }},
	{"disk", func(i wire.Image) string { return size(i.VirtualBytes) }},
	{"login", func(i wire.Image) string { return i.LoginUser }},
	{"login password", func(i wire.Image) string { return i.LoginPassword }},
	{"created", func(i wire.Image) string { return i.CreatedAt.UTC().Format(time.RFC3339) }},
	{"updated", func(i wire.Image) string { return i.UpdatedAt.UTC().Format(time.RFC3339) }},
}

// size is bytes for people; "" for none.
func size(n int64) string {
	if n <= 0 {
		return ""
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1024 && i+1 < len(units) {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Manage images", a.imageAddCommand(), a.imageListCommand(), a.imageShowCommand(), a.imageDeleteCommand())
}

func (a *app) imageAddCommand() *cobra.Command {
	var n wire.NewImage
	var passwordFile string
	var wait bool
	cmd := &cobra.Command{
		Use:   "add --name NAME FILE",
		Short: "Add an image from a file of the daemon's host and print its id",
		Long: `Add an image from a raw or qcow2 file of the daemon's host, wait until it can be used, and print its id on
standard output. The file is read by the daemon; afterwards it is no longer needed.`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&n.Name, "name", "", "name of the image (required)")
	flags.StringVar(&n.Description, "description", "", "what it holds")
	flags.BoolVar(&n.Public, "public", false, "everybody may use it")
	flags.StringVar(&n.LoginUser, "login-user", "", "first login of the image, shown to those who use it")
	flags.StringVar(&passwordFile, "login-password-file", "", "file with the password of that login, shown likewise")
	flags.BoolVar(&wait, "wait", true, "wait until it can be used; --wait=false prints the id at once")
	cmd.MarkFlagRequired("name")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if n.Path, err = filepath.Abs(args[0]); err != nil {
			return fmt.Errorf("image file %s: %w", args[0], err)
		}
		if passwordFile != "" {
			if n.LoginPassword, err = a.readSecretFile(passwordFile); err != nil {
				return err
			}
		}
		return a.addImage(ctx, c, n, wait)
	})
	return cmd
}

func (a *app) addImage(ctx context.Context, c *client.Client, n wire.NewImage, wait bool) error {
	accepted, err := c.AddImage(ctx, n)
	if err != nil {
		return err
	}
	if wait {
		if _, err := a.wait(ctx, c, []pending{{accepted.Operation.ID, "image-add", accepted.ID}}); err != nil {
			return err
		}
	}
	if !a.json {
		_, err := fmt.Fprintln(a.out, printable(accepted.ID))
		return err
	}
	image, err := c.Image(ctx, accepted.ID)
	if err != nil {
		return err
	}
	image.LoginPassword = "" // the caller gave it
	return a.printJSON(image)
}

func (a *app) imageListCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{Use: "list", Short: "List the images you may use", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		list, err := c.Images(ctx)
		switch {
		case err != nil:
			return err
		case a.json:
			for i := range list.Images {
				list.Images[i].LoginPassword = ""
			}
			return a.printJSON(list)
		case quiet:
			for _, i := range list.Images {
				fmt.Fprintln(a.out, printable(i.ID))
			}
			return nil
		}
		return printTable(a.out, imageColumns, list.Images)
	})
	return cmd
}

func (a *app) imageShowCommand() *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{Use: "show IMAGE", Short: "Describe an image", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(imageCandidates)}
	cmd.Flags().BoolVar(&secrets, "secrets", false, "show the password; it is blank otherwise, with --json too")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveImages(ctx, c, args)
		if err != nil {
			return err
		}
		image, err := c.Image(ctx, which[0].id)
		if err != nil {
			return err
		}
		switch {
		case a.json && !secrets:
			image.LoginPassword = ""
		case !secrets:
			image.LoginPassword = hide(image.LoginPassword)
		}
		if a.json {
			return a.printJSON(image)
		}
		return printBlock(a.out, imageFields, image)
	})
	return cmd
}

func (a *app) imageDeleteCommand() *cobra.Command {
	var yes, wait bool
	cmd := &cobra.Command{Use: "delete IMAGE...", Short: "Delete images; capsules made from them keep what they need",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(imageCandidates)}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask; needed when there is no terminal to ask on")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveImages(ctx, c, args)
		if err != nil {
			return err
		}
		if err := a.confirm(ctx, yes, "image", which); err != nil {
			return err
		}
		begin := func(c *client.Client, ctx context.Context, id string) (string, error) {
			accepted, err := c.DeleteImage(ctx, id)
			return accepted.Operation.ID, err
		}
		return a.act(ctx, c, verb{"image-delete", begin}, which, wait)
	})
	return cmd
}
