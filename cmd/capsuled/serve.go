package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/systemd"
)

// shutdownGrace is how long requests under way may take to be answered when the daemon stops.
const shutdownGrace = 10 * time.Second

// house is everything that was built, in the order of building; close takes it down in reverse.
type house struct {
	log     *slog.Logger
	metrics *prometheus.Registry
	closers []func() error
}

func (h *house) built(c func() error) { h.closers = append(h.closers, c) }

// beside runs f beside the daemon, until the house is closed and not only until ctx ends: what capsules use outlives the
// last operation.
func (h *house) beside(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	h.built(func() error {
		cancel()
		<-done
		return nil
	})
}

func (h *house) close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i]())
	}
	return errors.Join(errs...)
}

// serve builds the leaves, then the daemon, then the server, and runs them until ctx ends or one of them fails.
func serve(ctx context.Context, c Config, stderr io.Writer) (err error) {
	h := &house{log: newLogger(c.Log, stderr), metrics: newRegistry()}
	defer func() { err = errors.Join(err, h.close()) }()
	notify := systemd.New(h.log)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from now on it does not end the process
	defer signal.Stop(hangups)

	d, err := h.daemon(ctx, c)
	if err != nil {
		return err
	}
	server, listeners, err := h.server(ctx, c, d)
	if err != nil {
		return err
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "starting", slog.String("version", version), slog.String("socket", c.API.Socket), slog.Any("listen", c.API.Listen))

	// Whatever ends first ends the rest: first no new request, then no operation, then the leaves.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	served := make(chan error, 1)
	go func() {
		err := server.Serve(listeners...)
		if err != nil {
			cancel(err)
		}
		served <- err
	}()
	go h.reloads(ctx, hangups, notify, d)
	go notify.Watchdog(ctx, func() error { return answers(c.API.Socket) })
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ran := make(chan error, 1)
	go func() {
		err := d.Run(running, func(r daemon.Readiness) {
			if r.Ready {
				notify.Ready("serving; ports for " + strconv.Itoa(c.Network.Ports.Pairs()) + " capsules")
				return
			}
			notify.Status("waiting: " + strings.Join(r.Reasons, "; "))
		})
		if err != nil {
			cancel(err)
		}
		ran <- err
	}()

	<-ctx.Done()
	notify.Stopping("stopping; capsules run on")
	h.log.LogAttrs(ctx, slog.LevelInfo, "stopping; capsules run on")
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer done()
	err = errors.Join(server.Shutdown(grace), <-served)
	stop()
	return errors.Join(err, <-ran)
}

// answers is the watchdog's question: does the server still answer on its own socket?
func answers(socket string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://capsuled/healthz")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", resp.Status)
	}
	return nil
}

// daemon builds the leaves and the daemon over them.
func (h *house) daemon(ctx context.Context, c Config) (*daemon.Daemon, error) {
	unlock, err := lockHost(hostLockFile)
	if err != nil {
		return nil, err
	}
	h.built(unlock)
	if err := os.MkdirAll(c.Host.StateDir, 0o711); err != nil {
		return nil, err
	}
	files, err := imagestore.Open(imagestore.Options{
		Dir: c.Host.StateDir, ReaderGID: groupID(h.log, c.Libvirt.QEMUGroup), ReserveBytes: int64(c.Capsule.DiskReserveGB) << 30,
		MaxImageBytes: int64(c.Images.MaxGB) << 30,
		Log:           h.log, Registerer: h.metrics,
	})
	if err != nil {
		return nil, err
	}
	h.built(files.Close)
	// After the image store, whose lock keeps any other user of this directory away.
	records, err := store.Open(ctx, filepath.Join(c.Host.StateDir, "capsuled.db"))
	if err != nil {
		return nil, err
	}
	h.built(records.Close)
	host, err := domain.Open(domain.Options{URI: c.Libvirt.URI, VirtType: c.Libvirt.VirtType, Log: h.log, Registerer: h.metrics})
	if err != nil {
		return nil, err
	}
	h.built(host.Close)
	public := c.ResolvePublicIP()
	policies := readPolicies(c.Policy.Dir, h.log)
	chains, err := h.firewall(c, policies)
	if err != nil {
		return nil, err
	}
	h.built(func() error { chains.Close(); return nil })
	h.beside(ctx, func(ctx context.Context) { h.resolve(ctx, firewall.NewResolver(chains, h.log).Serve) })
	shown := ""
	if public.IsValid() {
		shown = public.String()
	}
	return daemon.New(daemon.Options{
		Host: c.Host.Name, PublicIP: shown,
		Network: domain.Network{Name: c.Network.Name, Bridge: c.Network.Bridge, Subnet: c.Network.Subnet},
		PortLow: int(c.Network.Ports.Low), PortHigh: int(c.Network.Ports.High), VNCListen: c.Network.VNCListen,
		Quota:    daemon.Quota{CPUs: c.Quota.CPUs, MemoryMB: c.Quota.MemoryMB, DiskGB: c.Quota.DiskGB, Images: c.Quota.Images},
		VolumeGB: c.Capsule.VolumeGB, SpoolGB: c.Capsule.SpoolGB, StopGrace: c.Capsule.StopGrace,
		ReserveBytes: int64(c.Capsule.DiskReserveGB) << 30,
		Policies:     policies, VerifyEvery: c.Secure.VerifyEvery, MountWait: c.Secure.MountWait, FlushWait: c.Secure.FlushWait,
		RotatePassword: c.Secure.RotateConsolePassword, CutConsoles: c.Secure.CutConsoles,
		FetchRules: c.fetchRules(), Clean: c.clean(), Peers: c.Images.Peers, CollectEvery: c.Images.CollectEvery, KeepDeleted: c.Images.KeepDeleted,
		Store: records, Hypervisor: host, Domains: host, Fences: chains, Files: files, Images: files,
		Log: h.log, Registerer: h.metrics,
	})
}

// errConfig marks what no restart heals, though it shows only when the configuration is put to use.
var errConfig = errors.New("wrong configuration")

// firewall builds the firewall with the policies that are there at the start.
func (h *house) firewall(c Config, policies func() ([]policy.Policy, error)) (*firewall.Chains, error) {
	first, err := policies()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	opt := firewallOptions(c, h.log, h.metrics)
	opt.Policies = first
	chains, err := firewall.New(opt)
	if errors.Is(err, firewall.ErrInvalid) { // such as a policy with more rules than the kernel shall walk
		err = fmt.Errorf("%w: %w", errConfig, err)
	}
	return chains, err
}

// firewallOptions are the same for the daemon and for -fence, but for the policies.
func firewallOptions(c Config, log *slog.Logger, r prometheus.Registerer) firewall.Options {
	return firewall.Options{
		Bridge: c.Network.Bridge, Subnet: c.Network.Subnet, PortLow: c.Network.Ports.Low, PortHigh: c.Network.Ports.High,
		PublicIP: c.Host.PublicIP, Log: log, Registerer: r,
	}
}

// server opens the listeners and builds the server over the daemon.
func (h *house) server(ctx context.Context, c Config, d *daemon.Daemon) (*api.Server, []net.Listener, error) {
	admins := groupID(h.log, c.API.Group)
	opt := api.Options{
		Daemon: d, Log: h.log, Registerer: h.metrics, Version: version,
		Metrics:    promhttp.HandlerFor(h.metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError}),
		SecretFile: c.Auth.JWTSecretFile, Admins: c.Auth.Admins,
		UsersFile: c.Identity.UsersFile, TokenLife: c.Identity.TokenLife, Region: c.Identity.Region, CycladesCatalog: c.Identity.CycladesCatalog, PollLimit: c.Images.PollLimit,
		PublicURL: c.API.PublicURL,
	}
	if admins >= 0 {
		opt.Groups = []uint32{uint32(admins)}
	}
	server, err := api.New(opt)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(c.API.Socket), 0o755); err != nil {
		return nil, nil, err
	}
	unix, err := api.ListenUnix(ctx, c.API.Socket, admins)
	if err != nil {
		return nil, nil, err
	}
	listeners := []net.Listener{unix}
	for _, addr := range c.API.Listen {
		l, err := api.ListenTCP(ctx, addr, api.TLSFiles{Cert: c.API.TLSCert, Key: c.API.TLSKey, ClientCA: c.API.ClientCA})
		if err != nil {
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return nil, nil, err
		}
		listeners = append(listeners, l)
	}
	return server, listeners, nil
}

// groupID looks a group up; -1 means that there is none, and then root alone has what the group would have had.
func groupID(log *slog.Logger, name string) int {
	g, err := user.LookupGroup(name)
	if err == nil {
		if id, err := strconv.Atoi(g.Gid); err == nil {
			return id
		}
	}
	log.Warn("no such group; root alone has its rights", slog.String("group", name))
	return -1
}

func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "capsuled_build_info", Help: "1, with the version of the daemon and of Go."}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// newLogger writes as the configuration says; "auto" is the journal's form under systemd and text elsewhere.
func newLogger(c LogConfig, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: c.Level}
	format := c.Format
	if format == "auto" && systemd.StderrIsJournal() {
		format = "journal"
	}
	switch format {
	case "journal":
		return slog.New(systemd.JournalHandler(w, c.Level))
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
