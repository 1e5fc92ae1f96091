package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
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
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, []byte("alice:"+string(hash)+":"+clientUser+":alice@example.org:p-alice:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startHost(t, fmt.Sprintf("identity.users_file = %q", users), "quota.images = 100")
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			h := h.within(t)
			made := h.imagesOf(clientUser, "own", "spare")
			t.Cleanup(func() {
				for _, id := range made {
					_, _ = h.Ctl(context.Background(), "image", "delete", "--yes", id) // those that the client did not delete
				}
			})
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
				"CAPSULED_TOKEN="+token(t, map[string]any{"sub": clientUser, "project": "p-alice"}), "CAPSULED_PASSWORD="+password, "CAPSULED_DISK="+h.file("sent", 3<<20), "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			if lines := bytes.Fields(out); err != nil || len(lines) == 0 || string(lines[len(lines)-1]) != "done" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// within is the host for a part of a test.
func (h *host) within(t *testing.T) *host {
	part := *h
	part.t = t
	return &part
}

// disk is a raw disk of random bytes behind a boot sector with one partition.
func disk(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b[512:])
	entry := b[446:]
	entry[0], entry[4] = 0x80, 0x83 // bootable; Linux
	binary.LittleEndian.PutUint32(entry[8:], 1)
	binary.LittleEndian.PutUint32(entry[12:], uint32(size/512-1))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// file puts such a disk into a file.
func (h *host) file(name string, size int) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), name+".raw")
	if err := os.WriteFile(path, disk(size), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// imagesOf sends images as a user, one for each name.
func (h *host) imagesOf(guid string, names ...string) map[string]string {
	h.t.Helper()
	made := map[string]string{}
	tok := token(h.t, map[string]any{"sub": guid, "project": "p-alice"})
	for _, name := range names {
		a := h.send(tok, "POST", "/v1/images", "application/json", fmt.Sprintf(`{"name":%q}`, name))
		var image struct{ ID string }
		if err := json.Unmarshal([]byte(a.body), &image); err != nil || a.status != 201 {
			h.t.Fatalf("%d %s", a.status, a.body)
		}
		if a = h.send(tok, "PUT", "/v1/images/"+image.ID+"/file?finish=true", "application/octet-stream", string(disk(1<<20))); a.status != 202 {
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
