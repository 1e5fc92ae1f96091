package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultSocket is where the daemon listens unless its configuration says otherwise.
const DefaultSocket = "/run/capsuled/capsuled.sock"

// DefaultTimeout bounds one call when Options gives no other bound.
const DefaultTimeout = 30 * time.Second

// Options says where the daemon is and who asks.
type Options struct {
	Socket    string        // path of the daemon's unix socket; DefaultSocket when neither it nor URL is given
	URL       string        // http or https base address, which may carry a path prefix; excludes Socket
	Token     string        // bearer token; excludes TokenFile
	TokenFile string        // file with the token, read anew for each call, so that a renewed token takes effect
	CAFile    string        // PEM file; for https, trust these authorities and no others
	Timeout   time.Duration // for one call, beside the time a long poll asks for; 0 means DefaultTimeout
	UserAgent string
}

// Client calls one daemon. Make it with New.
type Client struct {
	base    url.URL
	target  string // how messages name the daemon
	socket  bool
	http    *http.Client
	opt     Options
	timeout time.Duration
}

// New checks the options and returns a client. It connects to nothing; a wrong address shows at the first call.
// Options that contradict each other, an unreadable CA file, or a token that would travel in clear are errors.
func New(opt Options) (*Client, error) {
	if opt.Socket != "" && opt.URL != "" {
		return nil, errors.New("client: a socket and a URL exclude each other")
	}
	if opt.Token != "" && opt.TokenFile != "" {
		return nil, errors.New("client: a token and a token file exclude each other")
	}
	if opt.Timeout < 0 {
		return nil, fmt.Errorf("client: negative timeout %s", opt.Timeout)
	}
	c := &Client{opt: opt, timeout: opt.Timeout}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	// No proxy of the environment: it would see every request to a plain http address.
	transport := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
		ExpectContinueTimeout: 10 * time.Second}
	// A redirect would carry the token, and a form with a password, to a host nobody named.
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	address := c.useSocket
	if opt.URL != "" {
		address = c.useURL
	}
	if err := address(transport); err != nil {
		return nil, err
	}
	return c, nil
}

// Close drops idle connections. The client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Target names the daemon for people: "unix socket PATH", or the URL.
func (c *Client) Target() string { return c.target }

// Local says whether the daemon is reached over its unix socket, and so on this machine.
func (c *Client) Local() bool { return c.socket }

func (c *Client) useSocket(transport *http.Transport) error {
	if c.opt.CAFile != "" {
		return errors.New("client: a CA file is of use with an https URL only")
	}
	path := c.opt.Socket
	if path == "" {
		path = DefaultSocket
	}
	c.socket = true
	c.target = "unix socket " + path
	c.base = url.URL{Scheme: "http", Host: "capsuled"}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return nil
}

func (c *Client) useURL(transport *http.Transport) error {
	u, err := url.Parse(c.opt.URL)
	if err != nil {
		// The parser's error repeats the URL, which may hold a password.
		return errors.New("client: the URL cannot be parsed")
	}
	switch {
	case u.User != nil:
		return errors.New("client: a URL must not hold a user or password; use a token")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("client: URL %q: want http:// or https://", c.opt.URL)
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("client: URL %q: want scheme, host and perhaps a path", c.opt.URL)
	case u.Scheme == "http" && (c.opt.Token != "" || c.opt.TokenFile != "") && !loopback(u.Hostname()):
		return fmt.Errorf("client: URL %q: a token is not sent in clear over a network; use https", c.opt.URL)
	case u.Scheme == "http" && c.opt.CAFile != "":
		return errors.New("client: a CA file is of use with an https URL only")
	}
	c.base = url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
	c.target = c.base.String()
	transport.ForceAttemptHTTP2 = true
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.opt.CAFile == "" {
		return nil
	}
	pem, err := os.ReadFile(c.opt.CAFile)
	if err != nil {
		return fmt.Errorf("client: read CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("client: CA file %s holds no PEM certificate", c.opt.CAFile)
	}
	transport.TLSClientConfig.RootCAs = pool
	return nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// token returns the bearer token to send, or "".
func (c *Client) token() (string, error) {
	token := c.opt.Token
	if c.opt.TokenFile != "" {
		raw, err := os.ReadFile(c.opt.TokenFile)
		if err != nil {
			return "", fmt.Errorf("client: read token file: %w", err)
		}
		if token = strings.TrimSpace(string(raw)); token == "" {
			return "", fmt.Errorf("client: token file %s is empty", c.opt.TokenFile)
		}
	}
	// Whatever is not a token (a key, a binary file named by mistake) must neither leave this machine nor reach a message.
	for _, b := range []byte(token) {
		if b <= ' ' || b > '~' {
			return "", errors.New("client: the token holds characters that no token has")
		}
	}
	return token, nil
}
