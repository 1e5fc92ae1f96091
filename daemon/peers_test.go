package daemon_test

import (
	"slices"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestPeers: a shared image is ACTIVE once every other host has it, or an administrator says so.
func TestPeers(t *testing.T) {
	b := newBench(t, func(o *daemon.Options) { o.Peers = []string{"host2", "host3"} })
	waiting := func(name string) string {
		return b.put(name, daemon.ImageActive, func(i *store.Image) { i.State = daemon.ImagePending })
	}
	id := waiting("i")
	third := daemon.Caller{GUID: "host3", Roles: []string{daemon.RolePeer}}
	for n, step := range []struct {
		c     daemon.Caller
		code  daemon.Code
		state daemon.ImageState
	}{
		{daemon.Caller{GUID: "host4", Roles: []string{daemon.RolePeer}}, daemon.NotFound, daemon.ImagePending},
		{daemon.Caller{GUID: "host2"}, daemon.NotFound, daemon.ImagePending}, // the name alone is nothing
		{alice, daemon.Forbidden, daemon.ImagePending},
		{peer, ok, daemon.ImagePending},
		{peer, ok, daemon.ImagePending},
		{third, ok, daemon.ImageActive},
		{third, daemon.Conflict, daemon.ImageActive},
	} {
		_, err := b.ActivateImage(t.Context(), step.c, id)
		i, _ := b.Image(t.Context(), alice, id)
		if code(err) != step.code || i.State != step.state {
			t.Errorf("step %d: %v, %s", n, err, i.State)
		}
	}
	other := waiting("other")
	if i, err := b.ActivateImage(t.Context(), admin, other); err != nil || i.State != daemon.ImageActive {
		t.Errorf("%+v, %v", i, err)
	}
	empty := b.put("empty", daemon.ImagePending, nil)
	if _, err := b.ActivateImage(t.Context(), admin, empty); code(err) != daemon.Conflict {
		t.Errorf("nothing is there: %v", err)
	}
	// A capsule's image waits for them by itself.
	capsule := b.create(alice, id)
	v, op, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule, Name: "s"})
	b.succeed(op, err)
	if i, err := b.Image(t.Context(), alice, v.ID); err != nil || i.State != daemon.ImagePending || i.Digest == "" || !i.Arrived {
		t.Errorf("%+v, %v", i, err)
	}
	if b.show(capsule).State != daemon.Shutdown {
		t.Error("the capsule waits too")
	}
	for name, want := range map[string]struct {
		c    daemon.Caller
		code daemon.Code
	}{"a peer": {peer, ok}, "its owner": {alice, daemon.Conflict}, "a stranger": {bob, daemon.NotFound}, "another host": {daemon.Caller{GUID: "host4", Roles: []string{daemon.RolePeer}}, daemon.NotFound}} {
		f, _, err := b.OpenImage(t.Context(), want.c, v.ID)
		if f != nil {
			f.Close()
		}
		if code(err) != want.code {
			t.Errorf("%s reads an image that waits for the peers: %v", name, err)
		}
	}
	for _, p := range []daemon.Caller{third, peer} {
		if _, err := b.ActivateImage(t.Context(), p, v.ID); err != nil {
			t.Error(err)
		}
	}
	b.create(alice, v.ID)
	b.settled()
}

// TestPeersGo: an image that waits for hosts that are no longer configured is ACTIVE after the next start; what still waits
// for one, or for its bytes, is not.
func TestPeersGo(t *testing.T) {
	peers := []string{"host2", "host3"}
	b := newBench(t, func(o *daemon.Options) { o.Peers = peers })
	put := func(name string, state daemon.ImageState, have ...string) string {
		return b.put(name, state, func(i *store.Image) { i.State, i.Peers = daemon.ImagePending, have })
	}
	none, second, third := put("none", daemon.ImageActive), put("second", daemon.ImageActive, "host2"), put("third", daemon.ImageActive, "host3")
	empty := put("empty", daemon.ImagePending)
	for _, now := range []struct {
		peers  []string
		active []string
	}{{peers, nil}, {[]string{"host2"}, []string{second}}, {nil, []string{none, second, third}}} {
		peers = now.peers
		b.kill()
		b.start()
		for _, id := range []string{none, second, third, empty} {
			if i, err := b.Image(t.Context(), alice, id); err != nil || (i.State == daemon.ImageActive) != slices.Contains(now.active, id) {
				t.Errorf("with %v %s is %s, %v", now.peers, i.Name, i.State, err)
			}
		}
	}
}
