package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api"
)

func TestUnixSocketModeAndGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	l := must[net.Listener](t)(api.ListenUnix(t.Context(), path, 54321))
	info := must[os.FileInfo](t)(os.Stat(path))
	if info.Mode() != os.ModeSocket|0o660 || info.Sys().(*syscall.Stat_t).Gid != 54321 {
		t.Errorf("mode %v, group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
	if l.Addr().String() != path {
		t.Errorf("address %s", l.Addr())
	}
	for range 2 { // closing twice is once
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := must[[]string](t)(filepath.Glob(path + "*")); len(left) != 1 || left[0] != path+".lock" {
		t.Errorf("left: %v", left)
	}
}

func TestUnixSocketStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	stale := must[*net.UnixListener](t)(net.ListenUnix("unix", &net.UnixAddr{Name: path}))
	stale.SetUnlinkOnClose(false)
	stale.Close()
	half := must[*net.UnixListener](t)(net.ListenUnix("unix", &net.UnixAddr{Name: path + ".new"})) // left by a crash in between
	half.SetUnlinkOnClose(false)
	half.Close()
	l := must[net.Listener](t)(api.ListenUnix(t.Context(), path, -1))
	defer l.Close()
	must[net.Conn](t)(net.Dial("unix", path)).Close()
}

func TestUnixSocketRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ours := must[net.Listener](t)(api.ListenUnix(t.Context(), at("ours"), -1))
	defer ours.Close()
	foreign := must[*net.UnixListener](t)(net.ListenUnix("unix", &net.UnixAddr{Name: at("foreign")}))
	defer foreign.Close()
	write(t, at("file"), "precious", 0o600)
	write(t, at("target"), "precious", 0o600)
	for _, link := range []string{"link", "locked.lock"} {
		if err := os.Symlink(at("target"), at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		path string
		is   error
	}{
		"a daemon of our kind":   {at("ours"), api.ErrInUse},
		"a daemon without lock":  {at("foreign"), api.ErrInUse},
		"a file":                 {at("file"), nil},
		"a link":                 {at("link"), nil},
		"a link for a lock":      {at("locked"), syscall.ELOOP},
		"no directory":           {at("none/d.sock"), os.ErrNotExist},
		"a name beyond sun_path": {at(strings.Repeat("x", 120)), syscall.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := api.ListenUnix(t.Context(), row.path, -1)
			if err == nil {
				l.Close()
				t.Fatal("it listens")
			}
			if row.is != nil && !errors.Is(err, row.is) || !strings.Contains(err.Error(), row.path) {
				t.Error(err)
			}
		})
	}
	for _, name := range []string{"file", "target"} {
		if b := must[[]byte](t)(os.ReadFile(at(name))); string(b) != "precious" {
			t.Errorf("%s is now %q", name, b)
		}
	}
	must[net.Conn](t)(net.Dial("unix", at("ours"))).Close()
}

func TestPlainOnlyOnLoopback(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		if l, err := api.ListenTCP(t.Context(), addr, api.TLSFiles{}); !errors.Is(err, api.ErrPlain) {
			t.Errorf("%s: %v, %v", addr, l, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0"} {
		must[net.Listener](t)(api.ListenTCP(t.Context(), addr, api.TLSFiles{})).Close()
	}
	if _, err := api.ListenTCP(t.Context(), "127.0.0.1", api.TLSFiles{}); err == nil {
		t.Error("an address without a port passes")
	}
}

// authority signs certificates for tests and keeps them as files.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	a.cert, a.key = a.issue(t, "ca", nil)
	a.pool.AddCert(a.cert)
	return a
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(t *testing.T, name string, use []x509.ExtKeyUsage) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: use,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: use == nil, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer))
	write(t, a.file(name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	write(t, a.file(name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))})), 0o600)
	return must[*x509.Certificate](t)(x509.ParseCertificate(der)), key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// ask makes one GET of /healthz with the given client side of TLS.
func ask(ctx context.Context, addr string, config *tls.Config) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, "GET", "https://"+addr+"/healthz", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	ca.issue(t, "server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	ca.issue(t, "router", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	other.issue(t, "intruder", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	server := api.TLSFiles{Cert: ca.file("server.pem"), Key: ca.file("server.key")}
	h := start(t, nil)
	open := must[net.Listener](t)(api.ListenTCP(t.Context(), "127.0.0.1:0", server))
	server.ClientCA = ca.file("ca.pem")
	closed := must[net.Listener](t)(api.ListenTCP(t.Context(), "127.0.0.1:0", server))
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(open, closed) }()
	t.Cleanup(func() { // runs before the host's own, which shuts down
		if err := errors.Join(h.server.Shutdown(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	router := []tls.Certificate{must[tls.Certificate](t)(tls.LoadX509KeyPair(ca.file("router.pem"), ca.file("router.key")))}
	intruder := []tls.Certificate{must[tls.Certificate](t)(tls.LoadX509KeyPair(other.file("intruder.pem"), other.file("intruder.key")))}
	for name, row := range map[string]struct {
		addr   net.Addr
		config *tls.Config
		ok     bool
	}{
		"verified server":     {open.Addr(), &tls.Config{RootCAs: ca.pool}, true},
		"TLS 1.2":             {open.Addr(), &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS12}, true},
		"TLS 1.1":             {open.Addr(), &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"another authority":   {open.Addr(), &tls.Config{RootCAs: other.pool}, false},
		"client certificate":  {closed.Addr(), &tls.Config{RootCAs: ca.pool, Certificates: router}, true},
		"none":                {closed.Addr(), &tls.Config{RootCAs: ca.pool}, false},
		"one of other's":      {closed.Addr(), &tls.Config{RootCAs: ca.pool, Certificates: intruder}, false},
		"one of other's, 1.2": {closed.Addr(), &tls.Config{RootCAs: ca.pool, Certificates: intruder, MaxVersion: tls.VersionTLS12}, false},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := ask(t.Context(), row.addr.String(), row.config)
			if (err == nil) != row.ok {
				t.Fatalf("got %v, %v", resp, err)
			}
			if row.ok && (resp.StatusCode != 200 || resp.ProtoMajor != 1) {
				t.Errorf("got %s %s", resp.Proto, resp.Status)
			}
		})
	}
	// TLS does not stand in for identity.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool, Certificates: router}}}
	defer client.CloseIdleConnections()
	a := do(t, client, request(t, "GET", "https://"+closed.Addr().String()+"/listvms", "", "htrc-remote-user: boss"))
	if a.StatusCode != 401 {
		t.Error(a.StatusCode, a.body)
	}
	a = do(t, client, request(t, "GET", "https://"+closed.Addr().String()+"/listvms", "", bearerOf(t, map[string]any{"sub": "alice"})))
	if a.StatusCode != 200 {
		t.Error(a.StatusCode, a.body)
	}
}

func TestTLSFilesRefused(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "one", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	ca.issue(t, "two", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	write(t, ca.file("empty.pem"), "", 0o644)
	for name, files := range map[string]api.TLSFiles{
		"key of another": {Cert: ca.file("one.pem"), Key: ca.file("two.key")},
		"no key":         {Cert: ca.file("one.pem")},
		"authority only": {ClientCA: ca.file("ca.pem")},
		"missing":        {Cert: ca.file("three.pem"), Key: ca.file("three.key")},
		"empty CA":       {Cert: ca.file("one.pem"), Key: ca.file("one.key"), ClientCA: ca.file("empty.pem")},
		"missing CA":     {Cert: ca.file("one.pem"), Key: ca.file("one.key"), ClientCA: ca.file("none.pem")},
	} {
		if l, err := api.ListenTCP(t.Context(), "127.0.0.1:0", files); err == nil {
			l.Close()
			t.Errorf("%s: it listens", name)
		}
	}
}
