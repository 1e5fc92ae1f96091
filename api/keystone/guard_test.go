package keystone

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// While as many passwords are worked on as may be, every other waits, and is given up with its request: that of a name that
// does not exist as well, since it costs the same work.
func TestFewAtOnce(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := []User{{Name: "alice", GUID: "g", Hash: hash}}
	g := newGuard()
	for range cap(g.working) {
		g.working <- struct{}{}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"alice", "nobody"} {
		_, err := g.check(ended, users, name, "right", "192.0.2.1", func(u User) bool { return u.Name == name })
		if no, ok := errors.AsType[*dialect.Refusal](err); !ok || no.Code != daemon.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	<-g.working
	if _, err := g.check(t.Context(), users, "nobody", "right", "192.0.2.1", func(User) bool { return false }); err == nil {
		t.Error("the right password of another user lets in a name that does not exist")
	}
	if u, err := g.check(t.Context(), users, "alice", "right", "192.0.2.1", func(u User) bool { return u.Name == "alice" }); err != nil || u.GUID != "g" {
		t.Errorf("%v, %v", u, err)
	}
	if len(g.working) != cap(g.working)-1 {
		t.Errorf("%d are worked on", len(g.working))
	}
}
