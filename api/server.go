package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/capsuled/capsuled/api/dialect"
)

// Options is everything that a Server needs. All fields without a default named here are required.
type Options struct {
	// Daemon answers the calls: a *daemon.Daemon.
	Daemon verbs
	Log    *slog.Logger
	// Registerer takes the server's own metrics; Metrics answers GET /metrics to those who may read it.
	Registerer prometheus.Registerer
	Metrics    http.Handler
	// Version is told in the Server header; "" means "devel".
	Version string
	// SecretFile holds the secret of HS256 tokens, at least 32 bytes, not accessible to others, read again when it
	// changes. "" means that no token is accepted, and over TCP nobody is.
	SecretFile string
	// Admins are guids that are administrators whatever their token says.
	Admins []string
	// Groups are the gids whose members are administrators over the unix socket, beside root.
	Groups []uint32
	// UsersFile has those who may get a token for a password (keystone.ParseUsers says how), not accessible to others and
	// written by its owner alone, who is root or whoever runs the daemon; read again when it changes. "" means nobody.
	// It needs SecretFile.
	UsersFile string
	// TokenLife is how long a token lives that is given out for a password; 0 means one hour.
	TokenLife time.Duration
	// Region is that of the catalog of services; "" means RegionOne.
	Region string
	// PollLimit is how old a changes-since of the Synnefo dialects may be; 0 means one hour.
	PollLimit time.Duration
	// CycladesCatalog puts Synnefo's endpoints into the catalog of the identity API's version 2.0, in place of Nova's.
	CycladesCatalog bool
	// PublicURL is where callers reach this server through what stands before it, such as "https://capsules.example.org/host1":
	// every link begins with it. CheckPublicURL says what it may be; "" has links begin with what the request was sent to.
	PublicURL string
	// MaxConnections bounds open connections over TCP, and apart from that over unix sockets; 0 means 512. One caller who is
	// no administrator has half as many requests under way at most.
	MaxConnections int
}

// Server serves the API. It is made by New, used by one Serve, and ended by Shutdown.
type Server struct {
	daemon   verbs
	log      *slog.Logger
	metrics  *metrics
	scraped  http.Handler
	tokens   *tokens
	groups   []uint32
	software string
	public   string // the public URL, or ""
	mux      *http.ServeMux
	families []dialect.Family
	http     *http.Server
	slots    map[string]chan struct{} // by network: one token for each open connection
	share    *share

	closing context.Context // ends when Shutdown begins
	close   context.CancelFunc
}

// New returns a Server that does not listen yet. It fails when the secret is not fit, when the users' file is not, when a guid
// of Admins or the PublicURL is not one, or when the metrics are registered already.
func New(opt Options) (*Server, error) {
	if opt.Daemon == nil || opt.Log == nil || opt.Registerer == nil || opt.Metrics == nil {
		return nil, errors.New("api: Daemon, Log, Registerer and Metrics are required")
	}
	if opt.PublicURL != "" {
		if err := CheckPublicURL(opt.PublicURL); err != nil {
			return nil, fmt.Errorf("api: PublicURL %q %w", opt.PublicURL, err)
		}
	}
	tokens, err := newTokens(opt.SecretFile, opt.Admins)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, fmt.Errorf("api: register metrics: %w", err)
	}
	if opt.MaxConnections == 0 {
		opt.MaxConnections = 512
	}
	if opt.Version == "" {
		opt.Version = "devel"
	}
	s := &Server{
		daemon: opt.Daemon, log: opt.Log, metrics: m, scraped: opt.Metrics, tokens: tokens, groups: opt.Groups,
		software: "capsuled/" + opt.Version,
		public:   opt.PublicURL,
		slots:    map[string]chan struct{}{},
		share:    newShare(opt.MaxConnections),
	}
	for _, network := range []string{"unix", "tcp"} {
		s.slots[network] = make(chan struct{}, opt.MaxConnections)
	}
	s.closing, s.close = context.WithCancel(context.Background())
	s.mux = s.newMux()
	if s.families, err = newFamilies(opt, tokens); err != nil {
		return nil, err
	}
	s.http = s.newHTTP()
	return s, nil
}

func (s *Server) newHTTP() *http.Server {
	// HTTP/1.1 alone: with HTTP/2 one connection carries any number of requests, and the limit would mean nothing.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           http.HandlerFunc(s.track),
		ConnContext:       s.withPeer,
		ConnState:         s.noteConnection,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      maxWait*time.Second + requestTime + 10*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// Serve answers on every listener until Shutdown, then returns nil. When one listener fails it closes all, cutting
// what is under way, and returns the error. The listeners belong to it: they are closed when it returns.
func (s *Server) Serve(listeners ...net.Listener) error {
	var wg sync.WaitGroup
	errs := make([]error, len(listeners))
	for i, l := range listeners {
		wg.Go(func() {
			err := s.http.Serve(newLimit(l, s.slots[l.Addr().Network()]))
			if !errors.Is(err, http.ErrServerClosed) {
				errs[i] = fmt.Errorf("api: serve on %s: %w", l.Addr(), err)
				_ = s.http.Close() // ends the others; their own errors are not news
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Shutdown stops listening at once, answers long polls with the present state, and waits until every request is
// answered. When ctx ends first it cuts the connections and returns the reason. It may be called more than once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.close()
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("api: shut down: %w", errors.Join(err, s.http.Close()))
	}
	return nil
}

// noteConnection is the server's ConnState: it gives back the slot that limit.Accept took.
func (s *Server) noteConnection(conn net.Conn, state http.ConnState) {
	network := conn.LocalAddr().Network()
	switch state {
	case http.StateNew:
		s.metrics.open.WithLabelValues(network).Inc()
	case http.StateClosed:
		s.metrics.open.WithLabelValues(network).Dec()
		<-s.slots[network]
	}
}

// scarce says whether half of the connections of a network are taken. Then a reply ends its connection: a client without
// identity could keep every slot with one request each, and idle on them.
func (s *Server) scarce(network string) bool { return 2*len(s.slots[network]) > cap(s.slots[network]) }

// limit is a listener that hands out no more connections than there are slots. One more is accepted and waits unread;
// the rest wait in the kernel's queue.
type limit struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimit(l net.Listener, slots chan struct{}) *limit {
	return &limit{Listener: l, slots: slots, closed: make(chan struct{})}
}

// Accept takes a slot, which noteConnection gives back: the connection itself is not wrapped, since the server must see
// its type.
func (l *limit) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case l.slots <- struct{}{}:
		return conn, nil
	case <-l.closed:
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
}

func (l *limit) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
