package domain_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/domain"
)

// TestDropLog: the log of a domain goes with those that were moved aside, and is emptied for who has it open; no other's is touched.
func TestDropLog(t *testing.T) {
	dir := t.TempDir()
	h, err := domain.Open(domain.Options{Log: slog.New(slog.DiscardHandler), LogDir: dir})
	noErr(t, "open", err)
	defer h.Close()
	own := []string{"cap-1.log", "cap-1.log.0", "cap-1.log.2.gz", "cap-1.log-20250131"}
	others := []string{"cap-10.log", "cap-1", "cap-1.logs", "cap-1.logger.0", "xcap-1.log", "linked"}
	for _, name := range append(slices.Clone(own), others...) {
		noErr(t, "write", os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o600))
	}
	// Of two that are moved aside, one has a second name and one is a link to what is not its own.
	noErr(t, "link", os.Link(filepath.Join(dir, "linked"), filepath.Join(dir, "cap-1.log.3")))
	noErr(t, "symlink", os.Symlink("cap-10.log", filepath.Join(dir, "cap-1.log.4")))
	held, err := os.Open(filepath.Join(dir, "cap-1.log"))
	noErr(t, "hold", err)
	defer held.Close()

	noErr(t, "drop", h.DropLog(t.Context(), "cap-1"))
	noErr(t, "drop again", h.DropLog(t.Context(), "cap-1"))
	if n, _ := held.Read(make([]byte, 10)); n > 0 {
		t.Error("who has it open reads on")
	}
	for _, name := range others {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "secret" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != len(others) {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, name := range []string{"", ".", "..", "../cap-1", ".hidden", "a/b", "a\x00"} {
		wantErr(t, name, h.DropLog(t.Context(), name), domain.ErrInvalid)
	}
	noErr(t, "remove", os.RemoveAll(dir))
	noErr(t, "drop where there is no directory", h.DropLog(t.Context(), "cap-1"))
}

// TestDropLogOfADomain: libvirt's log of a domain that has run is where it is looked for, and the domain starts without it.
func TestDropLogOfADomain(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-log", idle)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	noErr(t, "define", h.Define(ctx, s))
	path := filepath.Join("/var/log/libvirt/qemu", s.Name+".log")
	for range 2 {
		noErr(t, "start", h.Start(ctx, s.ID))
		noErr(t, "destroy", h.Destroy(ctx, s.ID))
		if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "qemu-system") {
			t.Fatalf("libvirt did not log: %q, %v", b, err)
		}
		noErr(t, "drop", h.DropLog(ctx, s.Name))
		if left, err := filepath.Glob(path + "*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
