package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// capsuleName is how everything of a capsule is named: its domain, its tap and its chains.
var capsuleName = regexp.MustCompile(`cap-[0-9a-f]{8}`)

// Traces finds what capsules have left on the host: domains, leases, rules, links, sets, processes and files. On a host
// without capsules it finds nothing.
func Traces(ctx context.Context, stateDir string) ([]string, error) {
	var found []string
	for _, look := range []struct {
		what string
		argv []string
	}{
		{"domain", []string{"virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"}},
		{"lease", []string{"virsh", "-c", "qemu:///system", "net-dumpxml", "capsules"}},
		{"rule", []string{"iptables-save"}},
		{"rule", []string{"ip6tables-save"}},
		{"rule", []string{"nft", "list", "ruleset"}},
		{"link", []string{"ip", "-o", "link"}},
		{"process", []string{"ps", "-e", "-o", "args"}},
	} {
		out, err := exec.CommandContext(ctx, look.argv[0], look.argv[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("rig: %s: %w", strings.Join(look.argv, " "), err)
		}
		for name := range strings.Lines(string(out)) {
			if capsuleName.MatchString(name) {
				found = append(found, look.what+": "+strings.TrimSpace(name))
			}
		}
	}
	for _, pattern := range []string{"capsules/*", "images/incoming/*"} {
		files, err := filepath.Glob(filepath.Join(stateDir, pattern))
		if err != nil {
			return nil, err
		}
		found = append(found, files...)
	}
	if b, err := os.ReadFile("/proc/net/nf_conntrack"); err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "=192.168.53.") && !strings.Contains(line, "=192.168.53.1 ") {
				found = append(found, "connection: "+strings.TrimSpace(line))
			}
		}
	}
	return found, nil
}
