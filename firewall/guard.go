package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// setting is one kernel setting, by its path below /proc/sys.
type setting struct {
	name, value string
	optional    bool   // the kernel may be built or booted without it
	all         string // the host's own, which has a say too; "" if none has
}

// settings are what the fence needs of the kernel besides rules.
func (o Options) settings() []setting {
	ip4, ip6, all := "net/ipv4/conf/"+o.Bridge+"/", "net/ipv6/conf/"+o.Bridge+"/", "net/ipv4/conf/all/"
	return []setting{
		// Accepting and sending nothing of IPv6 on the bridge: no address, no neighbour or router discovery.
		{ip6 + "accept_ra", "0", true, ""},
		{ip6 + "disable_ipv6", "1", true, ""},
		{ip4 + "rp_filter", "1", false, all + "rp_filter"},           // strict (RFC 3704); 2, loose, is the larger
		{ip4 + "arp_ignore", "1", false, ""},                         // only the bridge's own address is told to a capsule
		{ip4 + "accept_redirects", "0", false, ""},                   // a capsule teaches the host no routes
		{ip4 + "accept_source_route", "0", false, ""},                //
		{ip4 + "route_localnet", "0", false, all + "route_localnet"}, // 127/8 never comes in from the bridge
		{ip4 + "proxy_arp", "0", false, all + "proxy_arp"},
		{"net/ipv4/ip_forward", "1", false, ""}, // last: writing it resets some of conf/*
	}
}

const sysctlRoot = "/proc/sys"

// GuardBridge sets what the fence needs of the kernel besides rules, each only if it is different: no IPv6
// and a strict reverse path on the bridge, forwarding on the host. The bridge must exist; call it again
// whenever it was made anew. It is idempotent. ErrUnavailable if the bridge is not there or the kernel refuses.
func (c *Chains) GuardBridge(ctx context.Context) error {
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("firewall: guard %s: %w", c.opt.Bridge, err)
	}
	defer done()
	for range 2 { // ip_forward resets others the first time
		wrong, err := c.opt.unguarded()
		if err != nil {
			return fmt.Errorf("firewall: guard %s: %w", c.opt.Bridge, err)
		}
		for _, s := range wrong {
			if err := os.WriteFile(filepath.Join(sysctlRoot, s.name), []byte(s.value), 0); err != nil {
				return fmt.Errorf("firewall: guard %s: %w: %w", c.opt.Bridge, ErrUnavailable, err)
			}
			c.opt.Log.LogAttrs(ctx, slog.LevelInfo, "kernel setting changed", slog.String("name", s.name), slog.String("value", s.value))
		}
	}
	c.guarded = true // from now on a bridge that is gone is a difference
	return nil
}

// bridgeGone says whether there is no bridge whose settings could be asked for.
func (o Options) bridgeGone() (bool, error) {
	_, err := os.Stat(filepath.Join(sysctlRoot, "net/ipv4/conf", o.Bridge))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// unguarded are the settings that are not as they should be.
func (o Options) unguarded() ([]setting, error) {
	var wrong []setting
	for _, s := range o.settings() {
		now, err := readSetting(s.name)
		if s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if now != s.value {
			wrong = append(wrong, s)
		}
	}
	return wrong, nil
}

func readSetting(name string) (string, error) {
	value, err := os.ReadFile(filepath.Join(sysctlRoot, name))
	return strings.TrimSpace(string(value)), err
}

// wrongSettings says in words which settings are not as they should be, whether or not it was GuardBridge that set them:
// a daemon that came back has capsules that run, and may not have come to it. They mean nothing while there is no
// binding, nor before there is a bridge: then no tap is on it.
func (c *Chains) wrongSettings() ([]string, error) {
	if !c.guarded && len(c.want.bindings) == 0 {
		return nil, nil
	}
	gone, err := c.opt.bridgeGone()
	if err != nil || gone && !c.guarded {
		return nil, err
	}
	if gone {
		return []string{"sysctl: there is no bridge " + c.opt.Bridge}, nil
	}
	wrong, err := c.opt.unguarded()
	var diffs []string
	for _, s := range wrong {
		diffs = append(diffs, fmt.Sprintf("sysctl: %s is not %s", s.name, s.value))
	}
	return diffs, err
}

// overruled says in words which settings are not in effect though they are as they should be, because the host's own
// have a say: of rp_filter the larger of both holds, of the others either (ip-sysctl.rst). They are the host's, for all
// its interfaces, and are left alone.
func (o Options) overruled() ([]string, error) {
	var found []string
	for _, s := range o.settings() {
		if s.all == "" {
			continue
		}
		all, err := readSetting(s.all)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if all > s.value { // a digit each
			found = append(found, strings.ReplaceAll(s.all, "/", ".")+" = "+all)
		}
	}
	return found, nil
}
