package daemon

import (
	"testing"
	"time"
)

// TestRefusals: so many of one actor have a row each, the rest of a minute one row together; others are not touched by it.
func TestRefusals(t *testing.T) {
	r := refusals{of: map[string]*tally{}}
	at := time.Unix(1000, 0)
	refuse := func(actor string, n int) (written, counted int) {
		for range n {
			write, before := r.admit(actor, at)
			if counted += before; write {
				written++
			}
		}
		return written, counted
	}
	if w, c := refuse("bob", refusalsWritten+50); w != refusalsWritten || c != 0 {
		t.Errorf("%d written, %d counted", w, c)
	}
	if w, _ := refuse("alice", 1); w != 1 {
		t.Error("another actor is not written")
	}
	if over := r.over(at.Add(refusalsSpan - 1)); len(over) != 0 {
		t.Errorf("over too early: %v", over)
	}
	at = at.Add(refusalsSpan)
	if w, c := refuse("bob", 1); w != 1 || c != 50 {
		t.Errorf("in the next minute: %d written, %d counted", w, c)
	}
	refuse("bob", refusalsWritten+6)
	at = at.Add(refusalsSpan)
	if over := r.over(at); len(over) != 1 || over["bob"] != 7 || len(r.of) != 0 {
		t.Errorf("over: %v, %d kept", over, len(r.of))
	}
	refuse("bob", refusalsWritten+1)
	at = at.Add(-time.Hour) // the clock is set back
	if w, c := refuse("bob", 1); w != 1 || c != 1 {
		t.Errorf("with a clock set back: %d written, %d counted", w, c)
	}
}
