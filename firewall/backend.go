package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// usesNFTables says whether all these programs of iptables are those that write to nf_tables, as they say
// themselves: "iptables-save v1.8.9 (nf_tables)".
func usesNFTables(programs ...string) (bool, error) {
	for _, p := range programs {
		version, err := command(context.Background(), "", p, "--version")
		if err != nil {
			return false, err
		}
		if !strings.Contains(version, "(nf_tables)") {
			return false, nil
		}
	}
	return true, nil
}

// legacyLists name the tables that iptables-legacy has in the network namespace of the calling thread (/proc/net is that
// of the process's first thread, which need not be the same).
var legacyLists = []struct{ family, path string }{
	{"ipv4", "/proc/thread-self/net/ip_tables_names"}, {"ipv6", "/proc/thread-self/net/ip6_tables_names"},
}

// legacyTables are the tables of the legacy backend, such as "ipv4 filter". A kernel without it has no list.
func legacyTables() ([]string, error) {
	var tables []string
	for _, l := range legacyLists {
		names, err := os.ReadFile(l.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		for name := range strings.FieldsSeq(string(names)) {
			tables = append(tables, l.family+" "+name)
		}
	}
	return tables, nil
}

// watchLegacy warns when tables of the legacy backend appear beside ours: a packet has to pass both, so they
// can stop or divert what a policy allows, and iptables does not show them.
func (c *Chains) watchLegacy(ctx context.Context) error {
	if !c.nft {
		return nil // they are ours
	}
	tables, err := legacyTables()
	if err != nil {
		return err
	}
	c.metrics.legacy.Set(float64(len(tables)))
	if now := strings.Join(tables, ", "); now != c.legacy {
		if now != "" {
			c.opt.Log.LogAttrs(ctx, slog.LevelWarn, "iptables-legacy has tables beside those of nf_tables: they may stop what policies allow",
				slog.String("tables", now), slog.String("look", "iptables-legacy-save, ip6tables-legacy-save"))
		}
		c.legacy = now
	}
	return nil
}
