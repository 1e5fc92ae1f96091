package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

var imageStates = []string{"SHARE_PENDING", "ACTIVE", "DELETE_PENDING", "DELETED", "ERROR", "any"}

var imageColumns = []column[wire.Image]{
	{"ID", func(i wire.Image) string { return i.ID }},
	{"NAME", func(i wire.Image) string { return i.Name }},
	{"STATE", func(i wire.Image) string { return i.State }},
	{"FORMAT", func(i wire.Image) string { return i.Format }},
	{"FILE", func(i wire.Image) string { return size(i.FileBytes) }},
	{"DISK", func(i wire.Image) string { return size(i.VirtualBytes) }},
	{"VISIBILITY", func(i wire.Image) string { return i.Visibility }},
	{"OWNER", func(i wire.Image) string { return i.Owner }},
	{"CREATED", func(i wire.Image) string { return ago(time.Since(i.CreatedAt)) }},
}

var imageFields = []column[wire.Image]{
	{"id", func(i wire.Image) string { return i.ID }},
	{"name", func(i wire.Image) string { return i.Name }},
	{"description", func(i wire.Image) string { return i.Description }},
	{"state", func(i wire.Image) string { return i.State }},
	{"cause", func(i wire.Image) string { return i.Cause }},
	{"visibility", func(i wire.Image) string { return i.Visibility }},
	{"protected", func(i wire.Image) string { return strconv.FormatBool(i.Protected) }},
	{"owner", func(i wire.Image) string { return i.Owner }},
	{"digest", func(i wire.Image) string { return i.Digest }},
	{"format", func(i wire.Image) string { return i.Format }},
	{"file", func(i wire.Image) string { return size(i.FileBytes) }},
	{"disk", func(i wire.Image) string { return size(i.VirtualBytes) }},
	{"minimum disk", func(i wire.Image) string { return count(i.MinDiskGB, " GB") }},
	{"minimum memory", func(i wire.Image) string { return count(i.MinRAMMB, " MB") }},
	{"source capsule", func(i wire.Image) string { return i.SourceCapsule }},
	{"login", func(i wire.Image) string { return i.LoginUser }},
	{"login password", func(i wire.Image) string { return i.LoginPassword }},
	{"created", func(i wire.Image) string { return i.CreatedAt.UTC().Format(time.RFC3339) }},
	{"updated", func(i wire.Image) string { return i.UpdatedAt.UTC().Format(time.RFC3339) }},
	{"deleted", func(i wire.Image) string {
		if i.DeletedAt == nil {
			return ""
		}
		return i.DeletedAt.UTC().Format(time.RFC3339)
	}},
}

// properties are lines of a block for an image's metadata, in the order of their keys.
func properties(i wire.Image) []column[wire.Image] {
	var lines []column[wire.Image]
	for _, key := range slices.Sorted(maps.Keys(i.Metadata)) {
		lines = append(lines, column[wire.Image]{printable("property " + key), func(i wire.Image) string { return strconv.Quote(i.Metadata[key]) }})
	}
	return lines
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
	return group("image", "Manage images", a.imageAddCommand(), a.imageListCommand(), a.imageShowCommand(), a.imageSetCommand(),
		a.imageUnsetCommand(), a.imageShareCommand(), a.imageExportCommand(), a.imageVerifyCommand(), a.imageDeleteCommand(), a.imageCollectCommand())
}

func (a *app) imageListCommand() *cobra.Command {
	var quiet bool
	var f client.ImageFilter
	cmd := &cobra.Command{Use: "list", Short: "List the images you may use, newest first", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&f.Name, "name", "", "only the one of this name")
	cmd.Flags().StringVar(&f.State, "state", "", "only those in this state, or in any; otherwise ACTIVE and SHARE_PENDING")
	cmd.Flags().StringVar(&f.Owner, "owner", "", "only those of this guid")
	cmd.Flags().StringVar(&f.Visibility, "visibility", "", "only those that are private, shared, community or public; those of others that are community are listed only so")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most so many")
	cmd.Flags().StringVar(&f.Marker, "after", "", "only those that come after this id")
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(imageStates, cobra.ShellCompDirectiveNoFileComp))
	completeVisibility(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if f.Limit < 0 {
			return usagef("--limit must not be negative")
		}
		f.State = strings.ToUpper(f.State)
		if f.State == "ANY" {
			f.State = "any"
		}
		list, err := c.Images(ctx, f)
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
		if err := printTable(a.out, imageColumns, list.Images); err != nil || !list.More || len(list.Images) == 0 {
			return err
		}
		_, err = fmt.Fprintf(a.err, "there are more: --after %s\n", printable(list.Images[len(list.Images)-1].ID))
		return err
	})
	return cmd
}

func (a *app) imageShowCommand() *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{Use: "show IMAGE", Short: "Describe an image", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(knownImages)}
	cmd.Flags().BoolVar(&secrets, "secrets", false, "show the password; it is blank otherwise, with --json too")
	cmd.RunE = a.with(about(resolveImages, func(ctx context.Context, c *client.Client, id string, _ []string) error {
		image, err := c.Image(ctx, id)
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
		return printBlock(a.out, slices.Concat(imageFields, properties(image)), image)
	}))
	return cmd
}

func (a *app) imageDeleteCommand() *cobra.Command {
	var yes, wait, later bool
	cmd := &cobra.Command{Use: "delete IMAGE...", Short: "Delete images; capsules made from them keep what they need",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(knownImages)}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask; needed when there is no terminal to ask on")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.Flags().BoolVar(&later, "later", false, "only take them out of use; their bytes go when the daemon collects")
	cmd.MarkFlagsMutuallyExclusive("wait", "later")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveImages(ctx, c, args)
		if err != nil {
			return err
		}
		if err := a.confirm(ctx, yes, "image", which); err != nil {
			return err
		}
		if later {
			return a.deleteLater(ctx, c, which)
		}
		begin := func(c *client.Client, ctx context.Context, id string) (string, error) {
			accepted, err := c.DeleteImage(ctx, id)
			return accepted.Operation.ID, err
		}
		return a.act(ctx, c, verb{"image-delete", begin}, which, wait)
	})
	return cmd
}

// deleteLater takes images out of use. No operation comes of that: as JSON it prints the images.
func (a *app) deleteLater(ctx context.Context, c *client.Client, which []candidate) error {
	list := wire.ImageList{Images: []wire.Image{}}
	err := each(a, which, func(i candidate) error {
		image, err := c.RequestImageDelete(ctx, i.id)
		if err == nil {
			image.LoginPassword = ""
			list.Images = append(list.Images, image)
		}
		return err
	})
	if a.json && len(list.Images) > 0 {
		return errors.Join(err, a.printJSON(list))
	}
	return err
}
