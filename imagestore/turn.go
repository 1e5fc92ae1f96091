package imagestore

import "context"

// turn has jobs that load the disk and a processor for minutes come one after the other: more of them at once take no less time
// together, and what they take is the guests'. Anybody who owns an image may begin any number of them.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for this job's turn, or for the end of ctx.
func (t turn) take(ctx context.Context) (end func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
