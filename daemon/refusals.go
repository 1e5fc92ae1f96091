package daemon

import (
	"fmt"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// Refusals leave a row of the audit trail each, which nobody ever removes. Whoever is refused again and again must not fill
// the disk with them, nor keep the one writer of the records busy: beyond so many in a while they are counted, and leave one
// row together.
const (
	refusalsWritten = 100
	refusalsSpan    = time.Minute
)

type refusals struct {
	mu sync.Mutex
	of map[string]*tally // by actor
}

// tally is what one actor was refused since a time.
type tally struct {
	since   time.Time
	written int
	counted int
}

// admit says whether a refusal gets a row of its own, and how many of the span before it got none.
func (r *refusals) admit(actor string, now time.Time) (write bool, counted int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.of[actor]
	if t == nil || now.Sub(t.since) >= refusalsSpan || now.Before(t.since) { // a clock that was set back begins anew
		if t != nil {
			counted = t.counted
		}
		t = &tally{since: now}
		r.of[actor] = t
	}
	if write = t.written < refusalsWritten; write {
		t.written++
	} else {
		t.counted++
	}
	return write, counted
}

// over forgets the spans that have ended, and returns the refusals in them that got no row, by actor.
func (r *refusals) over(now time.Time) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counted := map[string]int{}
	for actor, t := range r.of {
		if now.Sub(t.since) < refusalsSpan && !now.Before(t.since) {
			continue
		}
		if t.counted > 0 {
			counted[actor] = t.counted
		}
		delete(r.of, actor)
	}
	return counted
}

// countedRow is the row that refusals leave together.
func countedRow(actor string, n int) store.Act {
	return auditRow(actor, itself.From, "", "refusals", "", "refused", fmt.Sprintf("%d more within a minute, beyond the %d that have rows of their own", n, refusalsWritten))
}
