package policy_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/firewall/policy"
	"github.com/capsuled/capsuled/internal/golden"
)

// TestGolden: what each file becomes, or all that is wrong with it.
func TestGolden(t *testing.T) {
	for _, pattern := range []string{"testdata/toml/*.toml", "testdata/fw/*.fw", "shipped/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			t.Run(file, func(t *testing.T) { compare(t, file) })
		}
	}
}

func compare(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if p, err := policy.Parse(filepath.Base(file), text); err != nil {
		got = err.Error() + "\n"
	} else {
		got = describe(p)
	}
	golden.Check(t, filepath.Base(file), got)
}

// describe is all that a policy says, in lines.
func describe(p policy.Loaded) string {
	var b strings.Builder
	fmt.Fprintf(&b, "policy %s: %q\nsecure %v, dhcp %v, dns %v, ssh %v\n", p.Name, p.Comment, p.Secure, p.DHCP, p.DNS, p.SSH)
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		fmt.Fprintf(&b, "host %s %v\n", name, p.Hosts[name])
	}
	for _, r := range p.Rules {
		action := "allow"
		if r.Deny {
			action = "deny"
		}
		peers := "anywhere"
		if r.Host {
			peers = "host"
		} else if len(r.Peers) > 0 {
			peers = fmt.Sprint(r.Peers, " ", r.Names)
		}
		fmt.Fprintf(&b, "line %d: %s %v %v %s ports %v %q\n", r.Line, action, r.Direction, r.Protocol, peers, r.Ports, r.Comment)
	}
	for _, w := range p.Warnings {
		fmt.Fprintln(&b, "warning", w)
	}
	return b.String()
}
