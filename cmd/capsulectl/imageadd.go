package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

func (a *app) imageAddCommand() *cobra.Command {
	var n wire.NewImage
	var passwordFile string
	var wait, upload bool
	var items []string
	cmd := &cobra.Command{
		Use:   "add --name NAME FILE|URL|-",
		Short: "Add an image and print its id",
		Long: `Add an image from a raw or qcow2 file, from a URL that the daemon fetches, or with - from standard input, wait until
it can be used, and print its id on standard output. On a socket the daemon reads the file itself, unless --upload says to
send it; over --url it is sent. A transfer that is cut goes on from where it was.`,
		Example: "  capsulectl image add --name jammy jammy.qcow2\n" +
			"  capsulectl image add --name jammy --digest sha256:... https://images.example.org/jammy.qcow2\n" +
			"  zstd -dc jammy.zst | capsulectl image add --name jammy -",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&n.Name, "name", "", "name of the image (required)")
	flags.StringVar(&n.Description, "description", "", "what it holds")
	visibility := visibilityFlags(cmd)
	flags.BoolVar(&n.Protected, "protected", false, "it cannot be deleted until that is taken back")
	flags.IntVar(&n.MinDiskGB, "min-disk", 0, "`GB` of disk that it needs at least")
	flags.IntVar(&n.MinRAMMB, "min-ram", 0, "`MB` of memory that it needs at least")
	flags.StringVar(&n.Digest, "digest", "", "what it must be, `sha256:HEX`; anything else is refused")
	flags.StringVar(&n.Format, "format", "", "what it must be, raw or qcow2")
	flags.StringArrayVar(&items, "property", nil, "`KEY=VALUE`, any number of times")
	flags.StringVar(&n.LoginUser, "login-user", "", "first login of the image, shown to those who use it")
	flags.StringVar(&passwordFile, "login-password-file", "", "file with the password of that login, shown likewise")
	flags.BoolVar(&upload, "upload", false, "send the file, although the daemon could read it")
	flags.BoolVar(&wait, "wait", true, "wait until it can be used; --wait=false prints the id at once")
	cmd.MarkFlagRequired("name")
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if n.Visibility, err = visibility(); err != nil {
			return err
		}
		if n.Metadata, err = parseProperties(items); err != nil {
			return err
		}
		if passwordFile != "" {
			if n.LoginPassword, err = a.readSecretFile(passwordFile); err != nil {
				return err
			}
		}
		accepted, err := a.addImage(ctx, c, n, args[0], upload)
		if err != nil {
			return err
		}
		return a.added(ctx, c, accepted, "image-add", accepted.ID, wait)
	})
	return cmd
}

// addImage takes an image from wherever it is.
func (a *app) addImage(ctx context.Context, c *client.Client, n wire.NewImage, from string, upload bool) (wire.Accepted, error) {
	switch {
	case strings.Contains(from, "://"):
		if upload {
			return wire.Accepted{}, usagef("--upload is for files: the daemon fetches a URL itself")
		}
		n.URL = from
		return c.AddImage(ctx, n)
	case from == "-":
		return a.upload(ctx, c, n, a.in, -1)
	case c.Local() && !upload:
		var err error
		if n.Path, err = filepath.Abs(from); err != nil {
			return wire.Accepted{}, fmt.Errorf("image file %s: %w", from, err)
		}
		return c.AddImage(ctx, n)
	}
	f, err := os.Open(from)
	if err != nil {
		return wire.Accepted{}, fmt.Errorf("image file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return wire.Accepted{}, fmt.Errorf("image file: %w", err)
	}
	if info.IsDir() {
		return wire.Accepted{}, usagef("%s is a directory: give an image file", from)
	}
	if !info.Mode().IsRegular() { // of a pipe or a device nobody knows the size
		return a.upload(ctx, c, n, struct{ io.Reader }{f}, -1)
	}
	return a.upload(ctx, c, n, f, info.Size())
}

// upload sends an image. Should it not arrive, nothing of it stays at the daemon.
func (a *app) upload(ctx context.Context, c *client.Client, n wire.NewImage, from io.Reader, size int64) (accepted wire.Accepted, err error) {
	if size == 0 {
		return accepted, usagef("the image file is empty")
	}
	if size > 0 {
		n.Bytes = &size
	}
	image, err := c.NewUpload(ctx, n)
	if err != nil {
		return accepted, err
	}
	err = a.transfer(ctx, "upload", image.ID, func(ctx context.Context, progress client.Transfer) (err error) {
		accepted, err = c.Upload(ctx, image.ID, from, size, progress)
		return err
	})
	if err != nil {
		_, late := c.DeleteImage(context.WithoutCancel(ctx), image.ID)
		if late != nil {
			a.complain(fmt.Errorf("image %s, whose bytes did not all arrive, could not be removed: %w", image.ID, late))
		}
	}
	return accepted, err
}

// added waits for a new image and prints it.
func (a *app) added(ctx context.Context, c *client.Client, accepted wire.Accepted, kind, target string, wait bool) error {
	if wait {
		if _, err := a.wait(ctx, c, []pending{{accepted.Operation.ID, kind, target}}); err != nil {
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

// parseProperties reads KEY=VALUE arguments; nil for none.
func parseProperties(items []string) (map[string]string, error) {
	if len(items) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, item := range items {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return nil, usagef("%q is no property: want KEY=VALUE", item)
		}
		if _, twice := out[key]; twice {
			return nil, usagef("property %q is given twice", key)
		}
		out[key] = value
	}
	return out, nil
}
