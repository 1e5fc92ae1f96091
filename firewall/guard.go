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
	optional    bool // the kernel may be built or booted without it
}

// settings are what the fence needs of the kernel besides rules.
func (o Options) settings() []setting {
	ip4, ip6 := "net/ipv4/conf/"+o.Bridge+"/", "net/ipv6/conf/"+o.Bridge+"/"
	return []setting{
		// Accepting and sending nothing of IPv6 on the bridge: no address, no neighbour or router discovery.
		{ip6 + "accept_ra", "0", true},
		{ip6 + "disable_ipv6", "1", true},
		{ip4 + "rp_filter", "1", false},           // strict (RFC 3704): the larger of this and conf/all is in force
		{ip4 + "arp_ignore", "1", false},          // only the bridge's own address is told to a capsule
		{ip4 + "accept_redirects", "0", false},    // a capsule teaches the host no routes
		{ip4 + "accept_source_route", "0", false}, //
		{ip4 + "route_localnet", "0", false},      // 127/8 never comes in from the bridge
		{ip4 + "proxy_arp", "0", false},
		{"net/ipv4/ip_forward", "1", false}, // last: writing it resets some of conf/*
	}
}

const sysctlRoot = "/proc/sys"

// GuardBridge sets what the fence needs of the kernel besides rules, each only if it is different: no IPv6
// and a strict reverse path on the bridge, forwarding on the host. The bridge must exist; call it again
// whenever it was made anew. It is idempotent. ErrUnavailable if the bridge is not there or the kernel refuses.
func (c *Chains) GuardBridge(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	c.guarded = true
	return nil
}

// unguarded are the settings that are not as they should be.
func (o Options) unguarded() ([]setting, error) {
	var wrong []setting
	for _, s := range o.settings() {
		now, err := os.ReadFile(filepath.Join(sysctlRoot, s.name))
		if s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if strings.TrimSpace(string(now)) != s.value {
			wrong = append(wrong, s)
		}
	}
	return wrong, nil
}

// wrongSettings says in words which settings are not as they should be.
func (c *Chains) wrongSettings() ([]string, error) {
	wrong, err := c.opt.unguarded()
	var diffs []string
	for _, s := range wrong {
		diffs = append(diffs, fmt.Sprintf("sysctl: %s is not %s", s.name, s.value))
	}
	return diffs, err
}
