package e2e

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// TestSecureFiguresAtRestart starts the daemon anew while a guest in secure mode has figures ready that nobody asked it
// for: a balloon that its driver takes up again tells them at once. None of them is exported, from the first scrape on.
func TestSecureFiguresAtRestart(t *testing.T) {
	v := newVault(t)
	v.beacon()
	v.secure()
	v.inside(`cd /sys/bus/virtio/drivers/virtio_balloon && for d in virtio*; do echo $d >unbind; echo $d >bind; done`)
	for range 3 {
		v.Kill()
		if err := v.Start(); err != nil {
			t.Fatal(err)
		}
		v.until("a scrape with statistics", func() error {
			conn, err := net.Dial("tcp", "127.0.0.1:18080")
			if err != nil {
				return err
			}
			_ = conn.Close()
			a := v.send(token(t, map[string]any{"sub": "prometheus", "roles": []string{"metrics"}}), "GET", "/metrics", "", "")
			for line := range strings.Lines(a.body) {
				for _, name := range []string{"memory_stats_unused_bytes", "memory_stats_usable_bytes", "memory_stats_available_bytes", "memory_stats_current_balloon_bytes", "memory_stats_last_update"} {
					if strings.HasPrefix(line, "libvirt_domain_"+name) {
						t.Errorf("of a guest in secure mode: %s", line)
					}
				}
			}
			if !strings.Contains(a.body, "libvirt_domain_memory_stats_rss_bytes{") {
				return errors.New("none yet")
			}
			return nil
		})
		v.ready()
	}
}
