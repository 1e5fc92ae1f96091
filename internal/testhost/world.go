package testhost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The wire between the host and the outside world. Each routes everything it does not know to the other.
const (
	Uplink      = "up0" // the host's interface
	WorldUplink = "ex0" // the world's interface
	HostAddr    = "198.51.100.1"
	WorldAddr   = "198.51.100.2"
	WorldPrefix = "198.51.100.0/24"
	HostAddr6   = "2001:db8:51::1"
	WorldAddr6  = "2001:db8:51::2"

	worldName = "world"
)

// commandTimeout bounds every command of the set-up; none takes a tenth of it.
const commandTimeout = time.Minute

// World returns a command that runs in the outside world's network namespace (and the host's other namespaces).
// It does not start it.
func World(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", worldName}, args...)...)
}

func connectWorld() error {
	if err := run(nil, "ip", "netns", "add", worldName); err != nil {
		return err
	}
	host := []string{
		"link set lo up",
		"link add " + Uplink + " type veth peer name " + WorldUplink + " netns " + worldName,
		"addr add " + HostAddr + "/24 dev " + Uplink,
		"link set " + Uplink + " up",
		"route add default via " + WorldAddr,
	}
	world := []string{
		"link set lo up",
		"addr add " + WorldAddr + "/24 dev " + WorldUplink,
		"link set " + WorldUplink + " up",
		"route add default via " + HostAddr,
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		host = append(host, "addr add "+HostAddr6+"/64 dev "+Uplink+" nodad", "route add ::/0 via "+WorldAddr6)
		world = append(world, "addr add "+WorldAddr6+"/64 dev "+WorldUplink+" nodad", "route add ::/0 via "+HostAddr6)
	}
	if err := run(host, "ip", "-batch", "-"); err != nil {
		return err
	}
	if err := run(world, "ip", "-netns", worldName, "-batch", "-"); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// run runs a command of the set-up with lines on its standard input.
func run(lines []string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if lines != nil {
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}
