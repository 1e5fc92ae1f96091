package keystone

import (
	"hash/maphash"
	"sync"
	"time"
)

// How often a password may be wrong: so often at once, and then once in so long.
const (
	nameBurst, nameEvery       = 10, 6 * time.Second
	addressBurst, addressEvery = 40, time.Second
)

// throttle charges attempts to names and addresses. Its size is fixed: what it counts by is a hash, so that nobody can
// fill memory with names that do not exist. Two that share a place are held to one limit together, which who attacks
// cannot bring about on purpose: the hash has a secret seed.
type throttle struct {
	burst int
	every time.Duration
	seed  maphash.Seed

	mu    sync.Mutex         // guards what follows
	until [1 << 12]time.Time // when everything charged to a place is forgiven
}

func newThrottle(burst int, every time.Duration) *throttle {
	return &throttle{burst: burst, every: every, seed: maphash.MakeSeed()}
}

// charge notes an attempt. It returns 0, or how long to wait for one that would be let through; then nothing is noted.
func (t *throttle) charge(of string, now time.Time) time.Duration {
	place := t.place(of)
	t.mu.Lock()
	defer t.mu.Unlock()
	begin := t.until[place]
	if begin.Before(now) {
		begin = now
	}
	after := begin.Add(t.every)
	if wait := after.Sub(now) - time.Duration(t.burst)*t.every; wait > 0 {
		return wait
	}
	t.until[place] = after
	return 0
}

// refund takes an attempt back that was right.
func (t *throttle) refund(of string) {
	place := t.place(of)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.until[place] = t.until[place].Add(-t.every)
}

func (t *throttle) place(of string) int {
	return int(maphash.String(t.seed, of) % uint64(len(t.until)))
}
