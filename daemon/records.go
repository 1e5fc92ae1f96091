package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/capsuled/capsuled/daemon/store"
)

// checkRecords refuses to run where the records and the host, or the records and the configuration, cannot both be
// right. It is called before anything is changed: a daemon that refuses leaves capsules and their fences as they are.
func (d *Daemon) checkRecords(ctx context.Context) error {
	keys, err := d.files.Keys(ctx)
	if err != nil {
		return err
	}
	digests, err := d.images.Digests(ctx)
	if err != nil {
		return err
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		ever, err := tx.CapsulesEver()
		if err != nil {
			return err
		}
		if ever == 0 && len(keys) > 0 {
			return fmt.Errorf("daemon: the records name no capsule, but there are files of %d (such as %s): restore capsuled.db from a backup, or move the capsules directory away", len(keys), keys[0])
		}
		// The record of an image comes before its bytes, so that these are no litter of a crash.
		if ever, err = tx.ImagesEver(); err != nil {
			return err
		}
		if ever == 0 && len(digests) > 0 {
			return fmt.Errorf("daemon: the records name no image, but there are files of %d (such as %s): restore capsuled.db from a backup, or move the images directory away", len(digests), digests[0])
		}
		capsules, err := tx.Capsules()
		if err != nil {
			return err
		}
		if err := d.checkSettings(tx, len(capsules)); err != nil {
			return err
		}
		return d.checkHeld(tx, capsules)
	})
}

// checkSettings compares the network that the capsules were made for with the configured one.
func (d *Daemon) checkSettings(tx *store.Tx, capsules int) error {
	for _, s := range []struct{ key, value string }{
		{"network.name", d.opt.Network.Name},
		{"network.bridge", d.opt.Network.Bridge},
		{"network.subnet", d.opt.Network.Subnet.String()},
	} {
		was, err := tx.Setting(s.key)
		if err != nil {
			return err
		}
		if was == s.value {
			continue
		}
		if was != "" && capsules > 0 {
			return fmt.Errorf("daemon: %s is %q, and was %q when the %d capsules of this host were made: set it back, or delete them first", s.key, s.value, was, capsules)
		}
		if err := tx.PutSetting(s.key, s.value); err != nil {
			return err
		}
	}
	return nil
}

// checkHeld looks for capsules that hold what the configuration no longer has.
func (d *Daemon) checkHeld(tx *store.Tx, capsules []store.Capsule) error {
	for _, c := range capsules {
		for _, port := range []int{c.SSHPort, c.VNCPort} {
			if port != 0 && (port < d.opt.PortLow || port > d.opt.PortHigh) {
				return fmt.Errorf("daemon: capsule %s holds port %d, which is not in network.ports %d-%d: widen the range, or delete the capsule first", c.ID, port, d.opt.PortLow, d.opt.PortHigh)
			}
		}
		if ip, err := netip.ParseAddr(c.Address); c.Address != "" && (err != nil || !d.opt.Network.Subnet.Contains(ip)) {
			return fmt.Errorf("daemon: capsule %s has the address %s, which is not in network.subnet %s", c.ID, c.Address, d.opt.Network.Subnet)
		}
	}
	return nil
}
