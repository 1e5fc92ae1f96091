package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// transfer runs what moves bytes, and shows it as an operation of one step, drawn by the same line.
func (a *app) transfer(ctx context.Context, kind, target string, move func(context.Context, client.Transfer) error) error {
	line := newLine(a.err, pending{kind: kind, target: target}.label())
	began := time.Now()
	var done, total atomic.Int64
	ended := make(chan error, 1)
	go func() {
		ended <- move(ctx, func(n, of int64) { done.Store(n); total.Store(of) })
	}()
	state := func(name string) wire.Operation {
		op := wire.Operation{ID: target, Kind: kind, Target: target, State: "running", Started: began, Step: moved(done.Load(), total.Load()),
			Steps: []wire.Step{{Name: kind, State: name, Seconds: time.Since(began).Seconds(), Note: size(done.Load())}}}
		if total.Load() > 0 {
			op.Progress = int(100 * float64(done.Load()) / float64(total.Load()))
		}
		return op
	}
	for {
		select {
		case err := <-ended:
			if err == nil {
				line.show(state("done"))
			}
			line.end(wire.Operation{}, false)
			return err
		case <-line.ticks:
			line.show(state("running"))
		}
	}
}

// moved is how far a transfer is, for people.
func moved(done, total int64) string {
	if total <= 0 {
		return size(done)
	}
	return size(done) + " of " + size(total)
}

func (a *app) imageExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export IMAGE FILE|-",
		Short: "Write an image to a file, or with - to standard output",
		Long: `Write an image to a file that is not there yet, or with - to standard output, and check its digest. A transfer that is cut
goes on from where it was; of one that is given up FILE.part is left, from which the same command goes on.`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInTurn(a.complete(usedImages), cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)),
	}
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolveImages(ctx, c, args[:1])
		if err != nil {
			return err
		}
		id := which[0].id
		if args[1] != "-" {
			return a.exportTo(ctx, c, id, args[1])
		}
		return a.transfer(ctx, "export", id, func(ctx context.Context, progress client.Transfer) error {
			_, err := c.Export(ctx, id, nil, a.out, progress)
			return err
		})
	})
	return cmd
}

// exportTo writes beside the file, and gives it its name when all of it is there and proved.
func (a *app) exportTo(ctx context.Context, c *client.Client, id, name string) error {
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s is there already: choose another name, or remove it", name)
	}
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = a.transfer(ctx, "export", id, func(ctx context.Context, progress client.Transfer) error {
		_, err := c.Export(ctx, id, struct{ io.Reader }{f}, f, progress)
		return err
	})
	switch {
	case client.Is(err, client.Conflict): // not the bytes of the image, nor the beginning of them
		return errors.Join(err, os.Remove(part))
	case err != nil:
		if info, bad := f.Stat(); bad == nil && info.Size() == 0 {
			return errors.Join(err, os.Remove(part))
		}
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(part, name); err != nil { // unlike a rename it writes over nobody's file
		return err
	}
	return os.Remove(part)
}
