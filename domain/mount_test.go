package domain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
)

// TestMountTheRightDisk: a file system that bears the label of a disk which is still being plugged in does not take its
// place, and what is mounted in its place already is told of.
func TestMountTheRightDisk(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := guestSpec(t, h, "cap-decoy", testhost.Guest(t))
	booted(t, h, s)
	decoy, late := newVolume(t, s, "late"), newVolume(t, s, "real")
	decoy.Serial, late.Serial = "decoy", "late"
	noErr(t, "attach", h.Attach(ctx, s.ID, decoy))
	noErr(t, "mount", h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "decoy", Path: "/media/decoy"}}))

	done := make(chan error, 1)
	go func() {
		done <- h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "late", Label: "late", Path: "/media/late"}})
	}()
	time.Sleep(2 * time.Second) // the guest looks for the disk by now
	noErr(t, "attach", h.Attach(ctx, s.ID, late))
	noErr(t, "mount", <-done)
	noErr(t, "mount again", h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "late", Label: "late", Path: "/media/late"}}))
	mounts, err := h.GuestMounts(ctx, s.ID)
	if err != nil || mounts["/media/late"] != "late" {
		t.Errorf("mounts: %v, %v", mounts, err)
	}

	inGuest(t, s.Name, "umount /media/late; mount -t tmpfs tmpfs /media/late; ln -s /media/decoy /media/link")
	err = h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "late", Path: "/media/late"}})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "something else") {
		t.Errorf("mounted under something else: %v", err)
	}
	noErr(t, "mount by a link", h.GuestMount(ctx, s.ID, []domain.Mount{{Serial: "decoy", Path: "/media/link"}}))
}
