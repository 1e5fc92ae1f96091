package keystone_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Guesses at one name end, wherever they come from; so do those from one address, whatever the names. It is the same for
// names that do not exist, and time heals it.
func TestGuessing(t *testing.T) {
	for _, row := range []struct {
		name    string
		user    func(i int) string
		from    func(i int) string
		allowed int
		healed  time.Duration
	}{
		{"one name", func(int) string { return "alice" }, func(i int) string { return "192.0.2." + string(rune('0'+i%10)) + ":1" }, 10, 6 * time.Second},
		{"one name that is not", func(int) string { return "carol" }, func(i int) string { return "192.0.2." + string(rune('0'+i%10)) + ":1" }, 10, 6 * time.Second},
		{"one address", func(i int) string { return "user" + strings.Repeat("x", i) }, func(int) string { return "192.0.2.1:1" }, 40, time.Second},
		{"one network", func(i int) string { return "user" + strings.Repeat("x", i) }, func(i int) string { return "[2001:db8::" + string(rune('a'+i%6)) + "]:1" }, 40, time.Second},
		{"the socket", func(i int) string { return "user" + strings.Repeat("x", i) }, func(int) string { return "@" }, 40, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := start(t, nil)
			synctest.Test(t, func(t *testing.T) {
				guess := func(i int, want int) {
					t.Helper()
					h.from = row.from(i)
					a := h.call(t, "POST", tokens3, password3(row.user(i), "wrong"))
					if a.status != want || (want == 429) != (a.header.Get("Retry-After") != "") {
						t.Fatalf("guess %d: %d %v %s, want %d", i, a.status, a.header, a.body, want)
					}
				}
				for i := range row.allowed {
					guess(i, 401)
				}
				guess(row.allowed, 429)
				time.Sleep(row.healed + time.Millisecond)
				guess(row.allowed+1, 401)
				guess(row.allowed+2, 429)
			})
		})
	}
}

// Who is right is never held up, however often.
func TestRightIsNotCharged(t *testing.T) {
	h := start(t, nil)
	for i := range 50 {
		if a := h.call(t, "POST", tokens3, password3("alice", "alice-password")); a.status != 201 {
			t.Fatalf("%d: %d %s", i, a.status, a.body)
		}
	}
}

// The right password is refused as well once there were too many guesses: else guessing would go on.
func TestRightAfterTooMany(t *testing.T) {
	h := start(t, nil)
	synctest.Test(t, func(t *testing.T) {
		for range 10 {
			h.call(t, "POST", tokens3, password3("alice", "wrong"))
		}
		if a := h.call(t, "POST", tokens3, password3("alice", "alice-password")); a.status != 429 {
			t.Errorf("%d", a.status)
		}
		if a := h.call(t, "POST", tokens3, password3("bob", "bob-password")); a.status != 201 {
			t.Errorf("another name: %d", a.status)
		}
	})
}

// Guesses at the same time do not slip past the limit.
func TestGuessesAtOnce(t *testing.T) {
	h := start(t, nil)
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		var worked atomic.Int32
		for range 60 {
			wg.Go(func() {
				if a := h.call(t, "POST", tokens2, password2("alice", "wrong")); a.status == 401 {
					worked.Add(1)
				}
			})
		}
		wg.Wait()
		if worked.Load() != 10 {
			t.Errorf("%d passwords were tried", worked.Load())
		}
	})
}
