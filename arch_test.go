package capsuled_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/capsuled/capsuled"

// arrows are the imports that the house allows, room by room: of our own packages, and of the external systems that
// only one room may touch. A room that is not listed here does not exist.
var arrows = map[string][]string{
	"cmd/capsuled":     {"api", "daemon", "daemon/store", "domain", "firewall", "firewall/policy", "imagestore", "systemd"},
	"cmd/capsulectl":   {"api/client", "api/wire", "firewall/policy"}, // policy is pure: a file is checked without a daemon
	"api":              {"api/dialect", "api/glance", "api/horizon", "api/keystone", "api/nova", "api/synnefo", "api/wire", "daemon"},
	"api/dialect":      {"daemon"},
	"api/glance":       {"api/dialect", "api/imageservice", "daemon"},
	"api/horizon":      {"api/dialect", "api/imageservice", "daemon"},
	"api/imageservice": {"api/dialect", "daemon"},
	"api/keystone":     {"api/dialect", "daemon"},
	"api/nova":         {"api/dialect", "daemon"},
	"api/synnefo":      {"api/dialect", "daemon"},
	"api/wire":         {},
	"api/client":       {"api/wire"},
	"daemon":           {"daemon/store", "domain", "firewall", "firewall/policy", "imagestore"},
	"daemon/store":     {},
	"domain":           {},
	"firewall":         {"firewall/policy"},
	"firewall/policy":  {},
	"imagestore":       {},
	"systemd":          {},
}

// owners says which room alone may import an external system (STYLE: one wrapper per system).
var owners = map[string][]string{
	"libvirt.org/":                   {"domain"},
	"github.com/coreos/go-iptables/": {"firewall"},
	"github.com/vishvananda/":        {"firewall"},
	"github.com/mattn/go-sqlite3":    {"daemon/store"},
	"database/sql":                   {"daemon/store"},
	"github.com/golang-jwt/":         {"api"},
	"github.com/coreos/go-systemd/":  {"systemd"},
	"github.com/BurntSushi/":         {"cmd/capsuled", "firewall/policy"},
	"github.com/spf13/":              {"cmd/capsulectl"},
	"net/http": {"api", "api/client", "api/dialect", "api/glance", "api/horizon", "api/imageservice", "api/keystone", "api/nova", "api/synnefo",
		"cmd/capsuled", "cmd/capsulectl", "imagestore"}, // imagestore fetches images
	"os/exec": {"firewall", "imagestore"},
	"github.com/prometheus/client_golang/prometheus/promauto": {},
}

// TestArrows parses every file of the module that is built into a program, and fails on any import that is not an
// arrow of the house. It parses in-process: asking the go command would be answered from the test cache.
func TestArrows(t *testing.T) {
	rooms := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (slices.Contains([]string{"bin", "build", "testdata", "internal", ".git"}, e.Name())) {
			return filepath.SkipDir // tests and tools may import what they test
		}
		if e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		room := filepath.ToSlash(filepath.Dir(path))
		if base := filepath.Base(filepath.Dir(room)); filepath.Base(room) == base+"test" {
			return nil // a fake beside what it fakes, for tests alone: the arrows below name none
		}
		rooms[room] = true
		checkFile(t, room, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range arrows {
		if !rooms[room] {
			t.Errorf("room %s is in the plan and not in the tree", room)
		}
	}
}

func checkFile(t *testing.T, room, path string) {
	allowed, known := arrows[room]
	if !known {
		t.Errorf("%s: there is no room %s in the house (docs/ARCHITECTURE.md)", path, room)
		return
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range f.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if ours, ok := strings.CutPrefix(name, module+"/"); ok && !slices.Contains(allowed, ours) {
			t.Errorf("%s: %s must not import %s", path, room, ours)
		}
		for prefix, rooms := range owners {
			if (name == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(name, prefix)) && !slices.Contains(rooms, room) {
				t.Errorf("%s: only %v may import %s", path, rooms, name)
			}
		}
		if name == "C" {
			t.Errorf("%s: cgo of our own", path)
		}
	}
}
