package dialecttest

import (
	"cmp"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

// Put has an image be there that is ACTIVE, private and alice's, where i does not say otherwise. It returns the id.
func Put(d *daemontest.Images, i daemon.Image, data string) string {
	i.State, i.Visibility, i.Owner = cmp.Or(i.State, daemon.ImageActive), cmp.Or(i.Visibility, daemon.Private), cmp.Or(i.Owner, "alice")
	return d.Put(i, data)
}
