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

func resolveImages(ctx context.Context, c *client.Client, args []string) ([]candidate, error) {
	return resolve("image", args, func() ([]candidate, error) { return imageCandidates(ctx, c) })
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

// imageCandidates are the images that live, and those that failed: they can be looked at, and deleted. The name of one
// that is on its way out is free for another.
func imageCandidates(ctx context.Context, c *client.Client) ([]candidate, error) {
	list, err := c.Images(ctx, client.ImageFilter{State: "any"})
	among := []candidate{}
	for _, i := range list.Images {
		switch i.State {
		case "DELETED":
			continue
		case "DELETE_PENDING":
			i.Name = ""
		}
		among = append(among, candidate{id: i.ID, name: i.Name, note: i.State})
	}
	return among, err
}

// usedImages are those of them that something may still be done with, or made from, for completions.
func usedImages(ctx context.Context, c *client.Client) ([]candidate, error) {
	among, err := imageCandidates(ctx, c)
	return slices.DeleteFunc(among, func(i candidate) bool { return i.note != "ACTIVE" && i.note != "SHARE_PENDING" }), err
}

func operationCandidates(ctx context.Context, c *client.Client) ([]candidate, error) {
	list, err := c.Operations(ctx, client.OperationFilter{})
	among := []candidate{}
	for _, op := range list.Operations {
		among = append(among, candidate{id: op.ID, note: op.Kind + " " + op.State})
	}
	return among, err
}
