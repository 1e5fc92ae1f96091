package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/api/client"
)

// candidate is something that an argument may mean.
type candidate struct {
	id   string
	name string // "" where only the id names it
	note string // what it is, for questions and completions
}

// shortest is how long the beginning of an id must be to stand for it.
const shortest = 4

// fullID matches ids that need no looking up.
var fullID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// match finds the one candidate that arg means: its id, its name, or the beginning of its id. An id goes before all
// else. A name does not go before a beginning: anybody may name an image like the beginning of another one's id.
func match(what, arg string, among []candidate) (candidate, error) {
	prefix := strings.ToLower(arg)
	var found []candidate
	for _, c := range among {
		switch {
		case c.id == prefix:
			return c, nil
		case c.name != "" && c.name == arg, len(prefix) >= shortest && strings.HasPrefix(c.id, prefix):
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		hint := ""
		if len(prefix) < shortest {
			hint = fmt.Sprintf("; the beginning of an id needs %d characters", shortest)
		}
		return candidate{}, &client.Error{Code: client.NotFound, Message: fmt.Sprintf("no %s %q%s", what, arg, hint)}
	}
	var ids []string
	for _, c := range found {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	return candidate{}, &client.Error{Code: client.Invalid,
		Message: fmt.Sprintf("%q can mean several %ss: %s", arg, what, strings.Join(ids, ", "))}
}

// resolve turns arguments into candidates, each once, all or none: a list is asked for only if some need it.
func resolve(what string, args []string, list func() ([]candidate, error)) ([]candidate, error) {
	var among []candidate
	var found []candidate
	for _, arg := range args {
		c := candidate{id: strings.ToLower(arg)}
		if !fullID.MatchString(c.id) {
			var err error
			if among == nil {
				if among, err = list(); err != nil {
					return nil, err
				}
			}
			if c, err = match(what, arg, among); err != nil {
				return nil, err
			}
		}
		if !slices.ContainsFunc(found, func(f candidate) bool { return f.id == c.id }) {
			found = append(found, c)
		}
	}
	return found, nil
}

func resolveCapsules(ctx context.Context, c *client.Client, args []string) ([]candidate, error) {
	plain := make([]string, len(args))
	for i, arg := range args {
		plain[i] = strings.TrimPrefix(arg, "cap-") // a capsule's key is made of the first 8 digits of its id
	}
	return resolve("capsule", plain, func() ([]candidate, error) { return capsuleCandidates(ctx, c) })
}

// resolveImages looks among those that live, and if that is not enough, also among those that failed or go: to ask why, and to
// be told by the daemon what cannot be done with them.
func resolveImages(ctx context.Context, c *client.Client, args []string) ([]candidate, error) {
	found, err := resolve("image", args, func() ([]candidate, error) { return imageCandidates(ctx, c) })
	if client.Is(err, client.NotFound) {
		found, err = resolve("image", args, func() ([]candidate, error) { return knownImages(ctx, c) })
	}
	return found, err
}

// about makes an action of what is done about the one capsule or image that the first argument means.
func about(resolve func(context.Context, *client.Client, []string) ([]candidate, error),
	act func(ctx context.Context, c *client.Client, id string, rest []string) error) action {
	return func(ctx context.Context, c *client.Client, args []string) error {
		which, err := resolve(ctx, c, args[:1])
		if err != nil {
			return err
		}
		return act(ctx, c, which[0].id, args[1:])
	}
}

// resolveOperations looks among the newest; what is not there may still exist, and goes to the daemon as it is.
func resolveOperations(ctx context.Context, c *client.Client, args []string) ([]candidate, error) {
	var ids []candidate
	for _, arg := range args {
		found, err := resolve("operation", []string{arg}, func() ([]candidate, error) { return operationCandidates(ctx, c) })
		if client.Is(err, client.NotFound) && len(arg) >= shortest {
			found, err = []candidate{{id: arg}}, nil
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(ids, func(f candidate) bool { return f.id == found[0].id }) {
			ids = append(ids, found[0])
		}
	}
	return ids, nil
}

func capsuleCandidates(ctx context.Context, c *client.Client) ([]candidate, error) {
	list, err := c.ListCapsules(ctx)
	among := []candidate{}
	for _, v := range list.VMsInfo {
		among = append(among, candidate{id: v.VMID, note: v.VMState})
	}
	return among, err
}

func imageCandidates(ctx context.Context, c *client.Client) ([]candidate, error) {
	return imagesIn(ctx, c, "")
}

// knownImages are those that can be looked at: they live, have failed, or are on their way out.
func knownImages(ctx context.Context, c *client.Client) ([]candidate, error) {
	among, err := imagesIn(ctx, c, "any")
	return slices.DeleteFunc(among, func(i candidate) bool { return i.note == "DELETED" }), err
}

// imagesIn are those in a state, in "any", or with "" those that live.
func imagesIn(ctx context.Context, c *client.Client, state string) ([]candidate, error) {
	list, err := c.Images(ctx, client.ImageFilter{State: state})
	among := []candidate{}
	for _, i := range list.Images {
		among = append(among, candidate{id: i.ID, name: i.Name, note: i.State})
	}
	return among, err
}

func operationCandidates(ctx context.Context, c *client.Client) ([]candidate, error) {
	list, err := c.Operations(ctx, client.OperationFilter{})
	among := []candidate{}
	for _, op := range list.Operations {
		among = append(among, candidate{id: op.ID, note: op.Kind + " " + op.State})
	}
	return among, err
}
