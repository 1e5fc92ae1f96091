package daemon_test

import (
	"context"
	"errors"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
)

// impatient is a firewall whose caller gives up as soon as it changes something. As the real one it stops then, and leaves
// closed what it was about to change.
type impatient struct {
	fencesOf
	giveUp context.CancelFunc
}

func (i *impatient) stopped(ctx context.Context) error {
	if i.giveUp != nil {
		i.giveUp()
	}
	if ctx.Err() != nil {
		return errors.Join(firewall.ErrUnavailable, ctx.Err())
	}
	return nil
}

func (i *impatient) Put(ctx context.Context, b firewall.Binding) error {
	if err := i.stopped(ctx); err != nil {
		b.Policy = firewall.Closed
		return errors.Join(err, i.fencesOf.Put(context.WithoutCancel(ctx), b))
	}
	return i.fencesOf.Put(ctx, b)
}

func (i *impatient) SetPolicies(ctx context.Context, all []policy.Policy) error {
	if err := i.stopped(ctx); err != nil {
		return err
	}
	return i.fencesOf.SetPolicies(ctx, all)
}

// TestCallerGivesUp: an administrator who breaks off a change of policies or of a type, once it has begun, does not stop it
// half way, with a capsule in secure mode that is then held.
func TestCallerGivesUp(t *testing.T) {
	for name, change := range map[string]func(*bench, context.Context, string) error{
		"type": func(b *bench, ctx context.Context, id string) error {
			return b.SetCapsuleType(ctx, root, id, daemon.ResearchFull)
		},
		"policies": func(b *bench, ctx context.Context, _ string) error {
			_, err := b.ReloadPolicies(ctx, root)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := &impatient{}
			b := newBench(t, func(o *daemon.Options) { i.fencesOf = o.Fences.(fencesOf); o.Fences = i })
			id := b.secured()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			i.giveUp = cancel
			if err := change(b, ctx, id); err != nil {
				t.Error(err)
			}
			i.giveUp = nil
			if err := b.VerifyAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.idle()
			if c := b.show(id); c.State != daemon.Running || c.Mode != daemon.Secure {
				t.Errorf("%s in %s: %s", c.State, c.Mode, c.Cause)
			}
			b.settled()
		})
	}
}
