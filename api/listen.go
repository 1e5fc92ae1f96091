package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process listens on the socket.
var ErrInUse = errors.New("another daemon listens there")

// ErrPlain says that an address which others can reach has no TLS.
var ErrPlain = errors.New("plain HTTP only on loopback; set a certificate and a key")

// unixListener holds the lock that says whose socket it is.
type unixListener struct {
	*net.UnixListener
	path string
	lock *os.File
	once sync.Once
	err  error
}

// ListenUnix listens on a unix socket at path with mode 0660 and, unless gid is -1, that group. A socket that nobody
// listens on any more is replaced; anything else at path is left alone and refused, and so is a live daemon
// (ErrInUse). A lock on path+".lock" is held until Close, so that two daemons that start at once cannot both win; the
// lock's file stays. The directory must exist. Close removes the socket.
func ListenUnix(ctx context.Context, path string, gid int) (net.Listener, error) {
	l, err := listenUnix(ctx, path, gid)
	if err != nil {
		return nil, fmt.Errorf("api: listen on %s: %w", path, err)
	}
	return l, nil
}

func listenUnix(ctx context.Context, path string, gid int) (_ *unixListener, err error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, err
	}
	if err := checkStale(ctx, path); err != nil {
		return nil, err
	}
	// Bound under another name first: at path there is never a socket with a wrong mode or group, nor none for a moment.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", fresh)
	if err != nil {
		return nil, err
	}
	l := &unixListener{UnixListener: ln.(*net.UnixListener), path: path, lock: lock}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chown(fresh, -1, gid), os.Chmod(fresh, 0o660)); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(fresh))
	}
	return l, nil
}

// checkStale accepts nothing at path, or a socket that refuses connections.
func checkStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something else that is no socket; remove it")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(ErrInUse, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil
	}
	return fmt.Errorf("%w, perhaps: %w", ErrInUse, err)
}

// Addr names the path that callers use, not the one that was bound.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening, removes the socket, and gives up the lock, in this order: whoever gets the lock next finds
// nothing of ours.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		l.err = l.UnixListener.Close()
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.err = errors.Join(l.err, err)
		}
		l.err = errors.Join(l.err, l.lock.Close())
	})
	return l.err
}

// TLSFiles names PEM files. The zero value means plain HTTP. With ClientCA every client must present a certificate
// that it signed.
type TLSFiles struct {
	Cert, Key, ClientCA string
}

// ListenTCP listens on addr, HOST:PORT. Without TLS only loopback addresses are accepted (ErrPlain). TLS is 1.2 or
// later. The files are read once.
func ListenTCP(ctx context.Context, addr string, files TLSFiles) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("api: listen on %q: %w", addr, err)
	}
	if files == (TLSFiles{}) && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("api: listen on %q: %w", addr, ErrPlain)
	}
	var config *tls.Config
	if files != (TLSFiles{}) {
		if config, err = files.config(); err != nil {
			return nil, fmt.Errorf("api: listen on %q: %w", addr, err)
		}
	}
	// The resolved address: a second look-up of a name could give another answer.
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", tcp.String())
	if err != nil {
		return nil, fmt.Errorf("api: listen on %q: %w", addr, err)
	}
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	return ln, nil
}

func (f TLSFiles) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if f.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, err
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", f.ClientCA)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}
