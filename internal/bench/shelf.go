package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/api"
	verbs "github.com/capsuled/capsuled/daemon" // daemon is the program, here
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall/policy"
)

// shelf is the whole API in this process, over the records of many images that have no bytes, and beside it handlers that
// do as little as can be done. Both are reached over loopback, by the same client, with the same request.
type shelf struct {
	dir     string
	records *store.DB
	images  []string // ids, oldest first
	token   string
	client  *http.Client
	api     string // base of URLs
	bare    string
	mux     *http.ServeMux // of what is bare
	buffers sync.Pool      // of the client: what it costs is on both sides
	closers []func() error
}

// reader is who asks. It is no administrator and owns the first image alone; owner has the rest, of which every second
// one is public.
const (
	owner  = "owner"
	reader = "reader"
)

// newShelf makes the records and starts both servers.
func newShelf(ctx context.Context, images, clients int) (_ *shelf, err error) {
	s := &shelf{mux: http.NewServeMux()}
	s.buffers.New = func() any { b := make([]byte, 64<<10); return &b }
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "shelf"); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(s.dir) })
	if s.records, err = store.Open(ctx, filepath.Join(s.dir, "capsuled.db")); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.records.Close)
	if err = s.fill(ctx, images); err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxIdleConns: 2 * clients, DisableCompression: true}
	s.client = &http.Client{Transport: transport, Timeout: patience}
	s.closers = append(s.closers, func() error { transport.CloseIdleConnections(); return nil })
	server, err := s.server()
	if err != nil {
		return nil, err
	}
	if s.api, err = s.listen(server.Serve, server.Shutdown); err != nil {
		return nil, err
	}
	bare := &http.Server{Handler: s.mux}
	s.bare, err = s.listen(func(l ...net.Listener) error {
		if err := bare.Serve(l[0]); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, bare.Shutdown)
	return s, err
}

func (s *shelf) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

// fill writes the records: public and private in turn, with the items that Nova's images have.
func (s *shelf) fill(ctx context.Context, images int) error {
	return s.records.Update(ctx, func(tx *store.Tx) error {
		for _, guid := range []string{owner, reader} {
			if err := tx.PutUser(guid, ""); err != nil {
				return err
			}
		}
		for n := range images {
			i := store.Image{
				ID: fmt.Sprintf("%08x-0000-4000-8000-%012x", n*7919%images, n), Name: fmt.Sprintf("an image of some name, %d", n),
				State: verbs.ImageActive, Visibility: []store.Visibility{verbs.Public, verbs.Private}[n%2], Owner: owner, AskedBytes: -1,
				MinDiskGB: 10, MinRAMMB: 512, CreatedAt: time.Unix(1e9+int64(n), 0),
				Metadata: map[string]string{"architecture": "x86_64", "auto_disk_config": "True", "image_type": []string{"base", "snapshot"}[n/2%2], "kernel_id": "nokernel"},
			}
			if n == 0 {
				i.Owner = reader
			}
			if err := tx.InsertImage(i); err != nil {
				return err
			}
			s.images = append(s.images, i.ID)
		}
		return nil
	})
}

// server is the API as the daemon's program makes it, its log in a file. The daemon is not run: what is asked of it here
// it answers from its records.
func (s *shelf) server() (*api.Server, error) {
	secret := []byte("thirty-two bytes, or it is refused")
	file := filepath.Join(s.dir, "secret")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		return nil, err
	}
	logged, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, logged.Close)
	log, metrics := slog.New(slog.NewTextHandler(logged, nil)), prometheus.NewRegistry()
	d, err := verbs.New(verbs.Options{
		Host: "bench", Network: domain.Network{Subnet: netip.MustParsePrefix("192.168.64.0/20")}, PortLow: 16000, PortHigh: 16999,
		Store: s.records, Log: log, Registerer: metrics,
		Policies: func() (all []policy.Policy, err error) {
			for _, name := range policy.ShippedNames() {
				p, _ := policy.Shipped(name)
				all = append(all, p)
			}
			return all, nil
		},
	})
	if err != nil {
		return nil, err
	}
	if s.token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": reader, "exp": time.Now().Add(time.Hour).Unix()}).SignedString(secret); err != nil {
		return nil, err
	}
	return api.New(api.Options{Daemon: d, Log: log, Registerer: metrics, Metrics: http.NotFoundHandler(), SecretFile: file})
}

// listen serves on a port of loopback until the shelf is closed.
func (s *shelf) listen(serve func(...net.Listener) error, shutdown func(context.Context) error) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	served := make(chan error, 1)
	go func() { served <- serve(l) }()
	s.closers = append(s.closers, func() error {
		s.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return errors.Join(shutdown(ctx), <-served)
	})
	return "http://" + l.Addr().String(), nil
}

// asked is one request; no method is GET.
type asked struct {
	name, method, path, body string
	header                   http.Header
}

// do makes a request to one of the two servers, and reads the answer to its end into w.
func (s *shelf) do(ctx context.Context, base string, a asked, w io.Writer) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, a.method, base+a.path, strings.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Auth-Token", s.token)
	for name, values := range a.header {
		r.Header[name] = values
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	buffer := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buffer)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, resp.Body, *buffer); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s", a.method, a.path, resp.Status)
	}
	return resp, nil
}
