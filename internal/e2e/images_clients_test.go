package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/rig"
)

const clientUser = "alice"

// clients are programs that nobody here wrote, each driven by a script of the folder clients; what it must come to there
// is said there. Each gets images of its own.
var clients = []struct{ name, script string }{
	{"openstacksdk, Nova 2.1", "sdk_compute.py"},
	{"openstacksdk, Glance", "sdk_image.py"},
	{"tempest's client with its schemas, Nova 2.1 and 2", "tempest_compute.py"},
	{"libcloud, Nova 2 as Rackspace has it", "libcloud_compute.py"},
	{"openstackclient, by name and password", "openstack.sh"},
	{"gophercloud, from the identity on", ""},
}

// TestImageClients has clients of the OpenStack family, unmodified, do what they do with images.
func TestImageClients(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	const password = "correct horse"
	// bcrypt of the password, made by htpasswd.
	if err := os.WriteFile(users, []byte("alice:"+bcrypt(t, password)+":"+clientUser+":alice@example.org:p-alice:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startHost(t, fmt.Sprintf("identity.users_file = %q", users), "quota.images = 100")
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			h := h.within(t)
			made := h.imagesOf(clientUser, "own", "spare")
			made["two"] = h.ctl("image", "add", "--name", "two", "--public", h.file("two", 2<<20))
			argv := []string{"/usr/bin/python3", filepath.Join("clients", c.script)}
			if strings.HasSuffix(c.script, ".sh") {
				argv = []string{"/bin/sh", filepath.Join("clients", c.script)}
			}
			if c.script == "" {
				argv = []string{os.Getenv(envGophercloud)}
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			text, err := json.Marshal(made)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), "CAPSULED_URL=http://127.0.0.1:18080", "CAPSULED_IMAGES="+string(text), "CAPSULED_PROJECT=p-alice",
				"CAPSULED_TOKEN="+token(t, map[string]any{"sub": clientUser, "project": "p-alice"}), "CAPSULED_PASSWORD="+password, "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			if lines := bytes.Fields(out); err != nil || len(lines) == 0 || string(lines[len(lines)-1]) != "done" {
				t.Errorf("%v\n%s", err, out)
			}
			for _, id := range made {
				_, _ = h.Ctl(t.Context(), "image", "delete", "--yes", id) // those that it did not delete itself
			}
		})
	}
}

// bcrypt hashes a password as an operator would.
func bcrypt(t *testing.T, password string) string {
	t.Helper()
	out := must(command(t, "htpasswd", "-nbBC", "6", "x", password))(t)
	_, hash, _ := strings.Cut(strings.TrimSpace(out), ":")
	return hash
}

// within is the host for a part of a test.
func (h *host) within(t *testing.T) *host {
	part := *h
	part.t = t
	return &part
}

// file makes a raw disk of random bytes.
func (h *host) file(name string, size int64) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), name+".raw")
	must(command(h.t, "dd", "if=/dev/urandom", "of="+path, "bs=1M", fmt.Sprintf("count=%d", size>>20), "status=none"))(h.t)
	return path
}

// imagesOf sends images as a user, one for each name.
func (h *host) imagesOf(guid string, names ...string) map[string]string {
	h.t.Helper()
	made := map[string]string{}
	tok := token(h.t, map[string]any{"sub": guid, "project": "p-alice"})
	for _, name := range names {
		body, err := os.ReadFile(h.file(name, 1<<20))
		if err != nil {
			h.t.Fatal(err)
		}
		a := h.send(tok, "POST", "/v1/images", "application/json", fmt.Sprintf(`{"name":%q}`, name))
		var image struct{ ID string }
		if err := json.Unmarshal([]byte(a.body), &image); err != nil || a.status != 201 {
			h.t.Fatalf("%d %s", a.status, a.body)
		}
		if a = h.send(tok, "PUT", "/v1/images/"+image.ID+"/file?finish=true", "application/octet-stream", string(body)); a.status != 202 {
			h.t.Fatalf("%d %s", a.status, a.body)
		}
		h.ctl("operation", "wait", filepath.Base(a.header.Get("Operation-Location")))
		made[name] = image.ID
	}
	return made
}

// buildGophercloud builds the client that is a module of its own.
func buildGophercloud(root string) error {
	path := filepath.Join(root, "build", "e2e", "gophercloud")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join(root, "internal", "e2e", "gophercloud")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gophercloud: %w\n%s", err, out)
	}
	return os.Setenv(envGophercloud, path)
}

var _ = rig.Until
