package imageservice

import (
	"context"
	"errors"
	"slices"

	"github.com/capsuled/capsuled/daemon"
)

// finder is the verb that a page is read by.
type finder interface {
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
}

// Gather reads as many pages of a query as it takes to fill one of size images that keep lets pass, and says whether there is
// more. most bounds what is read at a time.
func Gather(ctx context.Context, from finder, c daemon.Caller, q daemon.ImageQuery, size, most int, keep []func(daemon.Image) bool) (out []*daemon.Image, more bool, err error) {
	q.Limit = size + 1
	for first := true; ; first = false {
		found, err := from.FindImages(ctx, c, q)
		if e, ok := errors.AsType[*daemon.Error](err); ok && e.Code == daemon.Invalid && !first {
			// Not the caller's marker, but one that was on the page before, and is not for the caller to know any more.
			return nil, false, &daemon.Error{Code: daemon.Unavailable, Message: "the list changed while it was read; try again", Err: err}
		}
		if err != nil {
			return nil, false, err
		}
		for _, i := range found.Images {
			if slices.ContainsFunc(keep, func(keep func(daemon.Image) bool) bool { return !keep(*i) }) {
				continue
			}
			if len(out) == size {
				return out, true, nil
			}
			out = append(out, i)
		}
		if !found.More || len(found.Images) == 0 {
			return out, false, nil
		}
		q.Marker, q.Limit = found.Images[len(found.Images)-1].ID, most
	}
}
