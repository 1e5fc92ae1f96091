package e2e

import (
	"errors"
	"strings"
	"testing"
)

// TestSecureEjections has the guest put out a device that it was given, in secure mode. It is held for that, and goes back:
// members may ask for its proof at any time, and the hash in it changes when the guest likes.
func TestSecureEjections(t *testing.T) {
	v := newVault(t)
	v.beacon()
	v.secure()
	v.inside(`at=$(readlink -f /sys/bus/virtio/drivers/virtio_rng/virtio*); at=${at%.*}; at=${at##*/}
		for s in /sys/bus/pci/slots/*; do [ "$(cat $s/address)" != "$at" ] || (sleep 3; echo 0 >$s/power) >/dev/null 2>&1 & done >/dev/null 2>&1`)
	v.until("a hold", func() error {
		if st := v.status(v.id); st.State != "ERROR" || st.Observed != "paused" {
			return errors.New(st.State + ", " + st.Observed)
		}
		return nil
	})
	if st := v.is("ERROR", "SECURE"); !strings.Contains(said(st.Cause), "put out") {
		t.Errorf("the cause is: %s", said(st.Cause))
	}
	v.maintenance()
	v.hears()
}
