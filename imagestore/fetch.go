package imagestore

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Fetch says which image to fetch, from where it may come, and with how much patience.
type Fetch struct {
	URL      string
	SHA256   Digest // what the bytes must be; "" to take what comes
	MaxBytes int64  // no more than this; 0 for Options.MaxImageBytes

	Rules FetchRules
}

// FetchRules are the operator's: where images may come from. The zero value allows nothing.
type FetchRules struct {
	// Allow are the hosts: "example.org" is that host alone, "*.example.org" every host below it, both at the default
	// port of the scheme; "example.org:8443" is another port.
	Allow []string
	// Schemes are "https" and "http"; empty for https alone.
	Schemes []string
	// Private are networks that may be reached although they are private, shared, or this machine's own. Nothing opens
	// loopback, link-local and multicast addresses.
	Private []netip.Prefix
	// Deny are networks that may not be reached although nothing above forbids it, as that of the domains.
	Deny []netip.Prefix
	// Roots are the authorities that servers are verified with; nil for the system's.
	Roots *x509.CertPool

	// Timeout bounds the whole transfer; 0 for six hours. A transfer that brings less than MinRate bytes per second (0
	// for 16 KiB) over a Window (0 for 30 seconds) ends too.
	Timeout time.Duration
	MinRate int64
	Window  time.Duration
}

const (
	fetchTimeout   = 6 * time.Hour
	fetchMinRate   = 16 << 10
	fetchWindow    = 30 * time.Second
	fetchRedirects = 5

	fetchDialTimeout   = 20 * time.Second
	fetchHeaderTimeout = time.Minute
	fetchHeaderBytes   = 64 << 10
)

var (
	errSlow    = errors.New("slower than the minimum rate")
	errTooLong = errors.New("time is up")
)

// Fetch takes an image in from a URL, as [Store.ImportFrom] does from a stream. The rules hold for the URL and for each
// of at most five redirects, and for the address of each connection at the moment when it is made: a name that leads
// elsewhere the second time gains nothing. There is no proxy, cookie, referrer or password; https does not go back to
// http; a server's own compression is refused.
//
// ErrInvalid with a [*BadImage] for a URL that the rules do not allow and for an image that is refused, ErrSource with a
// [*SourceError] for a server that does not give it, and the other errors of ImportFrom. The text names no address of
// this side. Ending ctx ends it at once. Whatever the failure, nothing stays behind.
func (s *Store) Fetch(ctx context.Context, f Fetch, p Progress) (Image, error) {
	began := time.Now()
	img, err := s.fetch(ctx, f, p)
	if err != nil {
		host := "a URL"
		if u, bad := url.Parse(f.URL); bad == nil && u.Host != "" { // the rest of a URL may be somebody's secret
			host = fmt.Sprintf("%.100q", u.Host)
		}
		return Image{}, failed("fetch from", host, err)
	}
	s.imported(ctx, "image fetched", img, began)
	return img, nil
}

func (s *Store) fetch(ctx context.Context, f Fetch, p Progress) (Image, error) {
	limit := min(cmp.Or(f.MaxBytes, s.opt.MaxImageBytes), s.opt.MaxImageBytes)
	u, err := f.Rules.parse(f.URL)
	if err = errors.Join(ctx.Err(), err); err == nil {
		err = Source{Bytes: -1, SHA256: f.SHA256}.check(limit)
	}
	if err != nil {
		return Image{}, err
	}
	transfer, cancel := context.WithTimeoutCause(ctx, cmp.Or(f.Rules.Timeout, fetchTimeout), errTooLong)
	defer cancel()
	transfer, stop := context.WithCancelCause(transfer)
	defer stop(nil)
	client := f.Rules.client()
	defer client.CloseIdleConnections()
	response, err := ask(transfer, client, u)
	if err != nil {
		return Image{}, s.blame(ctx, transfer, u.Host, err)
	}
	defer response.Body.Close()
	body := &metered{r: response.Body}
	go body.watch(transfer, stop, cmp.Or(f.Rules.Window, fetchWindow), cmp.Or(f.Rules.MinRate, fetchMinRate))
	img, err := s.importStream(ctx, Source{Reader: body, Bytes: response.ContentLength, SHA256: f.SHA256}, limit, p)
	if body.err != nil {
		return Image{}, s.blame(ctx, transfer, u.Host, body.err)
	}
	return img, err
}

// ask sends the request, and returns an answer whose body is the image.
func ask(ctx context.Context, client *http.Client, u *url.URL) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = http.Header{"Accept-Encoding": {"identity"}, "User-Agent": {"capsuled"}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	encoding := response.Header.Get("Content-Encoding")
	switch {
	case response.StatusCode != http.StatusOK:
		err = &SourceError{Fault: fmt.Sprintf("it answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))}
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		err = refuse("give a URL that serves the file as it is", "the server sends it compressed on the way (%.20q)", encoding)
	}
	if err != nil {
		response.Body.Close()
		return nil, err
	}
	return response, nil
}

// metered counts what comes and remembers why it ended.
type metered struct {
	r     io.Reader
	count atomic.Int64
	ended atomic.Bool
	err   error // what a read gave other than the end; for the reader's own goroutine
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	m.count.Add(int64(n))
	if err != nil {
		m.ended.Store(true)
		if err != io.EOF {
			m.err = err
		}
	}
	return n, err
}

// watch ends a transfer that is too slow over one window.
func (m *metered) watch(ctx context.Context, stop context.CancelCauseFunc, window time.Duration, rate int64) {
	tick := time.NewTicker(window)
	defer tick.Stop()
	for last := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := m.count.Load()
		if m.ended.Load() {
			return
		}
		if now-last < int64(float64(rate)*window.Seconds()) {
			stop(errSlow)
			return
		}
		last = now
	}
}

// client makes a client that goes by the rules.
func (r FetchRules) client() *http.Client {
	dialer := &net.Dialer{Timeout: fetchDialTimeout, ControlContext: r.control}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // not the environment's: it would look up and dial for us
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: r.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    fetchDialTimeout,
			ResponseHeaderTimeout:  fetchHeaderTimeout,
			MaxResponseHeaderBytes: fetchHeaderBytes,
			DisableCompression:     true,
			DisableKeepAlives:      true,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			next.Header.Del("Referer")
			if len(via) > fetchRedirects {
				return refuse("give the URL that it ends at", "it was redirected more than %d times", fetchRedirects)
			}
			if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
				return refuse("give a URL that stays with https", "it was redirected from https to %.20q", next.URL.Scheme)
			}
			return r.permit(next.URL)
		},
	}
}

// blame says in words what went wrong with a transfer, and logs what was met. A person who asks for a URL learns from
// it no address, and no resolver, that this machine sees.
func (s *Store) blame(ctx, transfer context.Context, host string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.opt.Log.LogAttrs(ctx, slog.LevelInfo, "image not fetched", slog.String("host", host), slog.Any("error", err))
	if bad, ok := errors.AsType[*BadImage](err); ok {
		return bad
	}
	if said, ok := errors.AsType[*SourceError](err); ok {
		return said
	}
	cause := errors.Join(context.Cause(transfer), err)
	for _, k := range sourceFaults {
		if k.is(cause) {
			return &SourceError{Fault: k.fault, Err: cause}
		}
	}
	return &SourceError{Fault: "the transfer broke off", Err: cause}
}

// sourceFaults are what can go wrong with a server, the more particular first.
var sourceFaults = []struct {
	fault string
	is    func(error) bool
}{
	{"it sends too slowly", func(err error) bool { return errors.Is(err, errSlow) }},
	{"it did not end in the time that a transfer may take", func(err error) bool { return errors.Is(err, errTooLong) }},
	{"its host has no address that can be found", met[*net.DNSError]},
	{"its certificate cannot be trusted", met[*tls.CertificateVerificationError]},
	{"it does not speak TLS", func(err error) bool {
		return errors.Is(err, http.ErrSchemeMismatch) || met[tls.RecordHeaderError](err)
	}},
	{"TLS with it failed", met[tls.AlertError]},
	{"it refused the connection", func(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }},
	{"it cannot be reached", func(err error) bool {
		return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
	}},
	{"it ended before all of it came", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	{"it did not answer in time", func(err error) bool {
		slow, ok := errors.AsType[net.Error](err)
		return ok && slow.Timeout()
	}},
}

// met says whether an error of one type is in the chain.
func met[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
