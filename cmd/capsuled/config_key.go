package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// key is one key of the file: how its TOML value gets into a Config, and how a Config's value is written as TOML.
type key struct {
	section, name string
	fill          func(c *Config, raw any) error // the error says what was wrong and what would be right
	show          func(c Config) string          // a TOML value
}

func (k key) String() string { return k.section + "." + k.name }

// keys is the whole file format, in the order in which it is documented. What is not here is a fault.
var keys = []key{
	entry("host", "name", func(c *Config) *string { return &c.Host.Name }, hostName),
	entry("host", "public_ip", func(c *Config) *netip.Addr { return &c.Host.PublicIP }, publicIP),
	entry("host", "state_dir", func(c *Config) *string { return &c.Host.StateDir }, text(checkPath)),
	entry("host", "run_dir", func(c *Config) *string { return &c.Host.RunDir }, text(checkPath)),

	entry("libvirt", "uri", func(c *Config) *string { return &c.Libvirt.URI }, text(checkURI)),
	entry("libvirt", "virt_type", func(c *Config) *string { return &c.Libvirt.VirtType }, oneOf("auto", "kvm", "qemu")),
	entry("libvirt", "qemu_group", func(c *Config) *string { return &c.Libvirt.QEMUGroup }, text(checkGroup)),

	entry("network", "name", func(c *Config) *string { return &c.Network.Name }, text(checkNetworkName)),
	entry("network", "bridge", func(c *Config) *string { return &c.Network.Bridge }, text(checkInterface)),
	entry("network", "subnet", func(c *Config) *netip.Prefix { return &c.Network.Subnet }, subnet),
	entry("network", "ports", func(c *Config) *PortRange { return &c.Network.Ports }, portRange),
	entry("network", "vnc_listen", func(c *Config) *netip.Addr { return &c.Network.VNCListen }, address),

	entry("api", "socket", func(c *Config) *string { return &c.API.Socket }, text(checkSocket)),
	entry("api", "group", func(c *Config) *string { return &c.API.Group }, text(checkGroup)),
	entry("api", "listen", func(c *Config) *[]string { return &c.API.Listen }, list("\"127.0.0.1:8080\"", checkListen)),
	entry("api", "public_url", func(c *Config) *string { return &c.API.PublicURL }, text(optional(checkPublicURL))),
	entry("api", "tls_cert", func(c *Config) *string { return &c.API.TLSCert }, text(optional(checkCertificate))),
	entry("api", "tls_key", func(c *Config) *string { return &c.API.TLSKey }, text(optional(checkPrivateKey))),
	entry("api", "client_ca", func(c *Config) *string { return &c.API.ClientCA }, text(optional(checkCertificate))),

	entry("auth", "jwt_secret_file", func(c *Config) *string { return &c.Auth.JWTSecretFile }, text(optional(checkSecretFile))),
	entry("auth", "admins", func(c *Config) *[]string { return &c.Auth.Admins }, list("\"a-guid\"", checkGUID)),

	entry("identity", "users_file", func(c *Config) *string { return &c.Identity.UsersFile }, text(optional(checkUsersFile))),
	entry("identity", "token_life", func(c *Config) *time.Duration { return &c.Identity.TokenLife }, duration(time.Minute, 7*24*time.Hour)),
	entry("identity", "region", func(c *Config) *string { return &c.Identity.Region }, text(checkRegion)),
	entry("identity", "cyclades_catalog", func(c *Config) *bool { return &c.Identity.CycladesCatalog }, truth),

	entry("quota", "cpus", func(c *Config) *int { return &c.Quota.CPUs }, whole(1, 4096)),
	entry("quota", "memory_mb", func(c *Config) *int { return &c.Quota.MemoryMB }, whole(1, 1<<24)),
	entry("quota", "disk_gb", func(c *Config) *int { return &c.Quota.DiskGB }, whole(1, 1<<20)),
	entry("quota", "images", func(c *Config) *int { return &c.Quota.Images }, whole(1, 100_000)),

	entry("capsule", "volume_gb", func(c *Config) *int { return &c.Capsule.VolumeGB }, whole(1, 1<<14)),
	entry("capsule", "spool_gb", func(c *Config) *int { return &c.Capsule.SpoolGB }, whole(1, 1<<14)),
	entry("capsule", "stop_grace", func(c *Config) *time.Duration { return &c.Capsule.StopGrace }, duration(time.Second, time.Hour)),
	entry("capsule", "disk_reserve_gb", func(c *Config) *int { return &c.Capsule.DiskReserveGB }, whole(0, 1<<14)),

	entry("images", "fetch_hosts", func(c *Config) *[]string { return &c.Images.FetchHosts }, list("\"images.example.org\"", checkFetchHost)),
	entry("images", "fetch_schemes", func(c *Config) *[]string { return &c.Images.FetchSchemes }, list("\"https\"", checkFetchScheme)),
	entry("images", "fetch_private_networks", func(c *Config) *[]string { return &c.Images.FetchPrivateNetworks }, list("\"10.20.0.0/16\"", checkPrefix)),
	entry("images", "fetch_timeout", func(c *Config) *time.Duration { return &c.Images.FetchTimeout }, duration(time.Minute, 7*24*time.Hour)),
	entry("images", "max_gb", func(c *Config) *int { return &c.Images.MaxGB }, whole(1, 1<<17)),
	entry("images", "collect_every", func(c *Config) *time.Duration { return &c.Images.CollectEvery }, duration(time.Minute, 24*time.Hour)),
	entry("images", "keep_deleted", func(c *Config) *time.Duration { return &c.Images.KeepDeleted }, duration(0, 365*24*time.Hour)),
	entry("images", "poll_limit", func(c *Config) *time.Duration { return &c.Images.PollLimit }, duration(time.Minute, 30*24*time.Hour)),
	entry("images", "clean_remove", func(c *Config) *[]string { return &c.Images.CleanRemove }, list("\".bash_history\"", checkPattern)),
	entry("images", "clean_empty", func(c *Config) *[]string { return &c.Images.CleanEmpty }, list("\"/etc/machine-id\"", checkPattern)),
	entry("images", "peers", func(c *Config) *[]string { return &c.Images.Peers }, list("\"a-guid\"", checkGUID)),

	entry("policy", "dir", func(c *Config) *string { return &c.Policy.Dir }, text(checkPath)),

	entry("secure", "verify_every", func(c *Config) *time.Duration { return &c.Secure.VerifyEvery }, duration(time.Second, 10*time.Minute)),
	entry("secure", "mount_wait", func(c *Config) *time.Duration { return &c.Secure.MountWait }, duration(time.Second, 10*time.Minute)),
	entry("secure", "flush_wait", func(c *Config) *time.Duration { return &c.Secure.FlushWait }, duration(time.Second, 10*time.Minute)),
	entry("secure", "rotate_console_password", func(c *Config) *bool { return &c.Secure.RotateConsolePassword }, truth),
	entry("secure", "cut_consoles", func(c *Config) *bool { return &c.Secure.CutConsoles }, truth),

	entry("log", "level", func(c *Config) *slog.Level { return &c.Log.Level }, logLevel),
	entry("log", "format", func(c *Config) *string { return &c.Log.Format }, oneOf("auto", "text", "json", "journal")),
}

// kind is how values of one type are read and written.
type kind[T any] struct {
	read func(raw any) (T, error)
	show func(T) string
}

// entry binds a key to its place in a Config. A value that cannot be read leaves the Config as it was.
func entry[T any](section, name string, at func(*Config) *T, k kind[T]) key {
	return key{
		section: section,
		name:    name,
		fill: func(c *Config, raw any) error {
			v, err := k.read(raw)
			if err != nil {
				return err
			}
			*at(c) = v
			return nil
		},
		show: func(c Config) string { return k.show(*at(&c)) },
	}
}

// wrongType says what was found in the place of what is wanted.
func wrongType(raw any, want string) error {
	found := "a table"
	switch v := raw.(type) {
	case string:
		found = "the text " + strconv.Quote(v)
	case int64:
		found = fmt.Sprintf("the number %d", v)
	case float64:
		found = fmt.Sprintf("the number %v", v)
	case bool:
		found = fmt.Sprintf("%t", v)
	case time.Time:
		found = "a date"
	case []any:
		found = "a list"
	}
	return fmt.Errorf("is %s; want %s", found, want)
}

// text is a string that check accepts.
func text(check func(string) error) kind[string] {
	return kind[string]{
		show: strconv.Quote,
		read: func(raw any) (string, error) {
			s, ok := raw.(string)
			if !ok {
				return "", wrongType(raw, "a text in quotes")
			}
			return s, check(s)
		},
	}
}

// parsed is a string that parse turns into something else; like is how one looks.
func parsed[T any](like string, parse func(string) (T, error), show func(T) string) kind[T] {
	return kind[T]{
		show: func(v T) string { return strconv.Quote(show(v)) },
		read: func(raw any) (T, error) {
			s, ok := raw.(string)
			if !ok {
				var zero T
				return zero, wrongType(raw, "a text in quotes, such as "+strconv.Quote(like))
			}
			return parse(s)
		},
	}
}

// oneOf is one of a few words.
func oneOf(words ...string) kind[string] {
	want := `"` + strings.Join(words, `", "`) + `"`
	return text(func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return fmt.Errorf("is %q; want one of %s", s, want)
	})
}

// whole is an integer from low to high.
func whole(low, high int) kind[int] {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	return kind[int]{
		show: strconv.Itoa,
		read: func(raw any) (int, error) {
			n, ok := raw.(int64)
			if !ok || n < int64(low) || n > int64(high) {
				return 0, wrongType(raw, want)
			}
			return int(n), nil
		},
	}
}

// truth is true or false, without quotes.
var truth = kind[bool]{
	show: strconv.FormatBool,
	read: func(raw any) (bool, error) {
		b, ok := raw.(bool)
		if !ok {
			return false, wrongType(raw, "true or false, without quotes")
		}
		return b, nil
	},
}

// list is a list of different strings that check accepts; like is how one looks.
func list(like string, check func(string) error) kind[[]string] {
	return kind[[]string]{
		show: func(v []string) string {
			quoted := make([]string, len(v))
			for i, s := range v {
				quoted[i] = strconv.Quote(s)
			}
			return "[" + strings.Join(quoted, ", ") + "]"
		},
		read: func(raw any) ([]string, error) {
			items, ok := raw.([]any)
			if !ok {
				return nil, wrongType(raw, "a list of texts such as ["+like+"]")
			}
			out := make([]string, 0, len(items))
			for _, item := range items {
				s, ok := item.(string)
				if !ok {
					return nil, fmt.Errorf("an item %w", wrongType(item, "a text in quotes"))
				}
				if err := check(s); err != nil {
					return nil, fmt.Errorf("an item %w", err)
				}
				if slices.Contains(out, s) {
					return nil, fmt.Errorf("has %q twice; name each once", s)
				}
				out = append(out, s)
			}
			return out, nil
		},
	}
}
