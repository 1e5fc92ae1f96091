package imagestore_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// A full disk ends a transfer that announced no length.
func TestFetchDiskFull(t *testing.T) {
	w := serve(t, http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		for b := noise(1, mib); in.Context().Err() == nil; {
			out.Write(b)
		}
	}))
	dir := filepath.Join(testhost.LoopFS(t, "ext4", 64*mib), "state")
	s := open(t, imagestore.Options{Dir: dir, ReserveBytes: 8 * mib})
	_, err := s.Fetch(t.Context(), imagestore.Fetch{URL: w.url("/"), Rules: w.rules()}, nil)
	if !errors.Is(err, imagestore.ErrExhausted) {
		t.Error(err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// A private network can be opened, this machine and its link cannot.
func TestFetchPrivateNetworks(t *testing.T) {
	path := rawDisk(t, 1, mib)
	run(t, "ip", "addr", "add", "10.77.0.1/32", "dev", "lo")
	defer run(t, "ip", "addr", "del", "10.77.0.1/32", "dev", "lo")
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) { http.ServeFile(out, in, path) }))
	defer server.Close()
	l, err := net.Listen("tcp", "10.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(l, server.Config.Handler) }()
	defer l.Close()
	s, _ := newStore(t)
	private := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	fetch := func(address string, r imagestore.FetchRules) error {
		r.Allow, r.Schemes = []string{address}, []string{"http"}
		_, err := s.Fetch(t.Context(), imagestore.Fetch{URL: "http://" + address + "/", Rules: r}, nil)
		return err
	}
	wantRefusal(t, fetch(l.Addr().String(), imagestore.FetchRules{}), "address")
	if err := fetch(l.Addr().String(), imagestore.FetchRules{Private: private[:1]}); err != nil {
		t.Error(err)
	}
	wantRefusal(t, fetch(l.Addr().String(), imagestore.FetchRules{Private: private, Deny: private[:1]}), "address")
	wantRefusal(t, fetch(server.Listener.Addr().String(), imagestore.FetchRules{Private: private}), "address")
}
