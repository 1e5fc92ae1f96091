package api

import (
	"sync"

	"github.com/capsuled/capsuled/daemon"
)

// share bounds how many requests one caller has under way over TCP: somebody who takes files slowly, each on a connection of
// its own, keeps none of the others out.
type share struct {
	most int

	mu sync.Mutex
	of map[string]int // requests under way, by guid
}

func newShare(connections int) *share {
	return &share{most: max(connections/2, 1), of: map[string]int{}}
}

// begin notes a request, until end is called; Unavailable when the caller has its share. Administrators have no bound.
func (s *share) begin(c daemon.Caller) (end func(), err error) {
	if c.HasRole(daemon.RoleAdmin) {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[c.GUID] >= s.most {
		return nil, &daemon.Error{Code: daemon.Unavailable, Message: "too many of your requests are under way; wait until one of them has ended"}
	}
	s.of[c.GUID]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.of[c.GUID]--; s.of[c.GUID] == 0 {
			delete(s.of, c.GUID)
		}
	}, nil
}
