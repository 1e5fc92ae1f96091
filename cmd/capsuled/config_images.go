package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/imagestore"
)

// ImagesConfig is [images]: where images come from, what does not travel with them, and when they go.
type ImagesConfig struct {
	FetchHosts           []string // hosts that images may be fetched from; none means that nothing is
	FetchSchemes         []string
	FetchPrivateNetworks []string // prefixes that may be reached although they are private
	FetchTimeout         time.Duration
	MaxGB                int           // of one image that is sent or fetched
	CollectEvery         time.Duration // how often what is deleted and unneeded is removed
	KeepDeleted          time.Duration // how long a deleted image keeps its bytes
	PollLimit            time.Duration // how old a changes-since of the Synnefo dialects may be
	CleanRemove          []string      // patterns of files that go from an image that is shared; see imagestore.Clean
	CleanEmpty           []string      // and of files that stay, with nothing in them
	Peers                []string      // guids that may say that an image is on their host too
}

// IdentityConfig is [identity]: the door of the image dialects where names and passwords become tokens.
type IdentityConfig struct {
	UsersFile       string // "" means that it is closed
	TokenLife       time.Duration
	Region          string // in its catalog
	CycladesCatalog bool   // the catalog names the Synnefo dialect instead of Nova's
}

func defaultImages() ImagesConfig {
	return ImagesConfig{
		FetchHosts:           []string{},
		FetchSchemes:         []string{"https"},
		FetchPrivateNetworks: []string{},
		FetchTimeout:         6 * time.Hour,
		MaxGB:                1024,
		CollectEvery:         10 * time.Minute,
		PollLimit:            time.Hour,
		// What is below /var goes by the end of its path: /var may be a file system of its own.
		CleanRemove: []string{
			"/etc/ssh/ssh_host_*", "/etc/dropbear/*_host_key", ".ssh/authorized_keys", ".htrc",
			".bash_history", ".ash_history", ".zsh_history", ".python_history", ".lesshst",
			"lib/cloud/instance", "lib/cloud/instances", "lib/systemd/random-seed", "lib/dbus/machine-id",
		},
		CleanEmpty: []string{"/etc/machine-id"},
		Peers:      []string{},
	}
}

func defaultIdentity() IdentityConfig {
	return IdentityConfig{TokenLife: 12 * time.Hour, Region: "RegionOne"}
}

// fetchRules are what images are fetched by. The network of the capsules is closed whatever else is open: their services
// are not for the daemon to be led to.
func (c Config) fetchRules() imagestore.FetchRules {
	rules := imagestore.FetchRules{Allow: c.Images.FetchHosts, Schemes: c.Images.FetchSchemes, Timeout: c.Images.FetchTimeout,
		Deny: []netip.Prefix{c.Network.Subnet}}
	for _, p := range c.Images.FetchPrivateNetworks {
		rules.Private = append(rules.Private, netip.MustParsePrefix(p)) // checked when it was read
	}
	return rules
}

// clean is what does not travel with an image that is shared.
func (c Config) clean() imagestore.Clean {
	return imagestore.Clean{Remove: c.Images.CleanRemove, Empty: c.Images.CleanEmpty}
}

func checkFetchHost(s string) error {
	if len(s) > 260 || (imagestore.FetchRules{Allow: []string{s}}).Check() != nil {
		return fmt.Errorf("is %q; want a host in lower case, \"*.\" and a domain, or an address, each with or without :PORT", s)
	}
	return nil
}

func checkFetchScheme(s string) error {
	if (imagestore.FetchRules{Schemes: []string{s}}).Check() != nil {
		return fmt.Errorf("is %q; want \"https\" or \"http\"", s)
	}
	return nil
}

func checkPrefix(s string) error {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return fmt.Errorf("is %q; want a network, such as \"10.20.0.0/16\" or \"fd00::/64\"", s)
	case p != p.Masked():
		return fmt.Errorf("is %q, an address and not a network; want %q", s, p.Masked())
	}
	return nil
}

// checkPattern is the image store's own rule.
func checkPattern(s string) error {
	if (imagestore.Clean{Remove: []string{s}}).Check() != nil || strings.ContainsFunc(s, isControl) {
		return fmt.Errorf("is %q; want names joined by single slashes, with * and ? but not these alone, such as \".ssh/authorized_keys\"", s)
	}
	return nil
}

// checkUsersFile looks at who may read it. What it holds the server reads itself.
func checkUsersFile(path string) error {
	_, err := readRegular(path, maxSecretBytes, othersRead|othersWrite)
	return err
}

func checkRegion(s string) error {
	if len(s) > 64 || !nameForm.MatchString(s) {
		return fmt.Errorf("is %q; want a letter, then letters, digits, '-' or '_', at most 64 characters", s)
	}
	return nil
}

// maxPatterns is the image store's bound.
const maxPatterns = 1000

func (p *parser) relateImages() {
	c := p.config
	if !p.usable("images.clean_remove", "images.clean_empty") {
		return
	}
	if n := len(c.Images.CleanRemove) + len(c.Images.CleanEmpty); n > maxPatterns {
		p.fault(p.lineOf("images.clean_remove", "images.clean_empty"), "images.clean_remove",
			"and images.clean_empty have %d patterns; want at most %d", n, maxPatterns)
	}
	for _, pattern := range c.Images.CleanEmpty {
		if slices.Contains(c.Images.CleanRemove, pattern) {
			p.fault(p.lineOf("images.clean_empty", "images.clean_remove"), "images.clean_empty",
				"has %q, which is in images.clean_remove too: it cannot both stay and go", pattern)
		}
	}
	if len(c.Images.FetchSchemes) == 0 && len(c.Images.FetchHosts) > 0 && p.usable("images.fetch_schemes", "images.fetch_hosts") {
		p.fault(p.lineOf("images.fetch_schemes", "images.fetch_hosts"), "images.fetch_schemes",
			"is empty, and images.fetch_hosts is not; want [\"https\"]")
	}
}

func (p *parser) relateIdentity() {
	c := p.config
	if p.usable("identity.users_file", "auth.jwt_secret_file") && c.Identity.UsersFile != "" && c.Auth.JWTSecretFile == "" {
		p.fault(p.lineOf("identity.users_file"), "identity.users_file", "needs auth.jwt_secret_file: without it no token can be made")
	}
}
