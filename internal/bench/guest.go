package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/capsuled/capsuled/internal/rig"
)

// guestMemory is what a guest needs to touch so much, both in MiB: its kernel keeps records of every page.
func guestMemory(touched int) int { return touched + touched/16 + 192 }

// fillScript touches memory: it fills a file in RAM with copies of a MiB of random bytes. QEMU and libvirt save pages of
// one repeated byte as nothing, and look for no other likeness. One cat copies many, for to start a program takes an
// emulated processor longer than to copy a MiB.
const fillScript = `set -e
mkdir -p /run/fill
mount -t tmpfs -o size=100%% fill /run/fill
dd if=/dev/urandom of=/run/seed bs=1048576 count=1 2>/dev/null
i=0 seeds=
while [ $i -lt 32 ]; do seeds="$seeds /run/seed"; i=$((i + 1)); done
n=%d
{
	while [ $n -ge 32 ]; do cat $seeds; n=$((n - 32)); done
	while [ $n -gt 0 ]; do cat /run/seed; n=$((n - 1)); done
} >/run/fill/all
du -m /run/fill/all`

// guest starts a capsule whose guest has touched so many MiB, and returns the capsule's id.
func (b *bench) guest(ctx context.Context, touched int) (capsule string, err error) {
	op, _, err := b.d.createOf(ctx, b.d.image, guestMemory(touched))
	if err != nil {
		return "", err
	}
	if _, _, err := b.d.act(ctx, b.d.api.LaunchCapsule, op.Target); err != nil {
		return "", err
	}
	st, err := b.d.api.Capsule(ctx, op.Target)
	if err != nil {
		return "", err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := b.d.guest
	if _, err := rig.AwaitSSH(waiting, key, st.SSHPort, "true"); err != nil {
		return "", err
	}
	// In the background, for a login has a time limit, and a large memory takes long.
	script := strings.ReplaceAll(fmt.Sprintf(fillScript, touched), "'", `'\''`)
	if _, err := rig.SSH(ctx, key, st.SSHPort, "setsid sh -c '"+script+"' >/run/filled.new 2>&1 </dev/null && mv /run/filled.new /run/filled &"); err != nil {
		return "", err
	}
	return op.Target, rig.Until(waiting, func() error {
		out, err := rig.SSH(ctx, key, st.SSHPort, "cat /run/filled")
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(out, "\t")
		if n, err := strconv.Atoi(size); err != nil || n < touched {
			return rig.Final(fmt.Errorf("the guest should have touched %d MiB, and says %q", touched, out))
		}
		return nil
	})
}
