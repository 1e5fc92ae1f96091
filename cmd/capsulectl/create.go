package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// capsuleTypes that --type takes.
var capsuleTypes = []string{"DEMO", "RESEARCH", "RESEARCH-FULL"}

// creation is the flags of create.
type creation struct {
	client.NewCapsule
	image               string
	passwordFile        string
	passwordStdin, wait bool
	consent, fullAccess bool
}

func (a *app) createCommand() *cobra.Command {
	var f creation
	cmd := &cobra.Command{
		Use:   "create --image IMAGE [flags]",
		Short: "Create a capsule and print its id",
		Long: `Create a capsule from an image and print its id on standard output. The capsule can be launched when the
operation has ended: --wait waits for that. Without a console password one is made and printed on standard error.`,
		Example: "  capsulectl create --image debian-12 --memory 2048 --vcpus 2 --title 'Word counts' --wait",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "", "image to clone: id or name (required)")
	flags.StringVar(&f.LoginUser, "login-user", "dcuser", "login name of the console")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with the console password, 1 to 8 characters")
	flags.BoolVar(&f.passwordStdin, "password-stdin", false, "read the console password from standard input")
	flags.IntVar(&f.MemoryMB, "memory", 1024, "memory in MB")
	flags.IntVar(&f.VCPUs, "vcpus", 1, "number of vcpus")
	flags.StringVar(&f.Type, "type", "RESEARCH", strings.Join(capsuleTypes, ", "))
	flags.BoolVar(&f.consent, "consent", false, "the researcher consents (not said unless given)")
	flags.BoolVar(&f.fullAccess, "full-access", false, "full access is asked for (not said unless given)")
	for _, t := range []struct {
		name, usage string
		value       *string
	}{
		{"title", "what the capsule is for, in a few words", &f.Title},
		{"desc-nature", "nature of the research", &f.DescNature},
		{"desc-requirement", "what it requires", &f.DescRequirement},
		{"desc-links", "links that describe it", &f.DescLinks},
		{"desc-outside-data", "data brought from outside", &f.DescOutsideData},
		{"rr-data-files", "files that results will have", &f.RRDataFiles},
		{"rr-result-usage", "use that results will have", &f.RRResultUsage},
	} {
		flags.StringVar(t.value, t.name, "", t.usage)
	}
	flags.BoolVar(&f.wait, "wait", false, "wait until the capsule can be launched")
	cmd.MarkFlagRequired("image")
	cmd.MarkFlagsMutuallyExclusive("password-file", "password-stdin")
	cmd.RegisterFlagCompletionFunc("image", a.complete(usedImages))
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(capsuleTypes, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if flags.Changed("consent") {
			f.Consent = &f.consent
		}
		if flags.Changed("full-access") {
			f.FullAccess = &f.fullAccess
		}
		return a.create(ctx, c, f)
	})
	return cmd
}

func (a *app) create(ctx context.Context, c *client.Client, f creation) error {
	if f.MemoryMB < 1 || f.VCPUs < 1 {
		return usagef("--memory and --vcpus must be at least 1")
	}
	if f.Type = strings.ToUpper(f.Type); !slices.Contains(capsuleTypes, f.Type) {
		return usagef("--type must be one of %s", strings.Join(capsuleTypes, ", "))
	}
	password, made, err := a.consolePassword(ctx, f.passwordFile, f.passwordStdin)
	if err != nil {
		return err
	}
	images, err := resolveImages(ctx, c, []string{f.image})
	if err != nil {
		return err
	}
	f.ImageID, f.LoginPassword = images[0].id, password
	vmid, operation, err := c.CreateCapsule(ctx, f.NewCapsule)
	if err != nil {
		return err
	}
	if made {
		fmt.Fprintf(a.err, "console password: %s\n", password)
	}
	// The id comes before the wait: the capsule exists from now on, whatever becomes of the operation.
	if a.json {
		err = a.printJSON(wire.Created{VMID: vmid})
	} else {
		_, err = fmt.Fprintln(a.out, printable(vmid))
	}
	if err != nil || !f.wait {
		return err
	}
	_, err = a.wait(ctx, c, []pending{{operation, "create", vmid}})
	return err
}
