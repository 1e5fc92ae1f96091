package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func portText(p uint16) string { return strconv.Itoa(int(p)) }

// told waits for one message.
func told(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-changes:
		if !ok {
			t.Fatal("the channel is closed")
		}
	case <-time.After(waitSeconds * time.Second):
		t.Fatal("nobody told")
	}
}

func TestChangesAreTold(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	all := bindings(o, 3)
	apply(t, t.Context(), c, all)
	ctx, cancel := context.WithCancel(t.Context())
	changes := c.Changes(ctx)
	for _, change := range []string{
		"iptables -F CAPSULED-HOST", "ip6tables -D INPUT -j CAPSULED-INPUT", "nft delete table bridge capsuled",
		"nft add table inet others", "nft flush ruleset",
	} {
		run(t, ctx, strings.Fields(change)...)
		told(t, changes)
	}
	apply(t, ctx, c, all)
	told(t, changes)
	cancel()
	for range changes { // until it is closed
	}
}

// Looking is no change, or whoever looks because he was told would never end: the first message is of the change
// that comes after it.
func TestLookingIsNoChange(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 3)
	apply(t, t.Context(), c, all)
	f, err := openChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c.reading = nil
	wantVerified(t, t.Context(), c)
	inspect(t, c, all[0].Tap)
	if err := c.Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	run(t, t.Context(), "nft", "add", "table", "inet", "marker")
	buf := make([]byte, 1<<16)
	n, err := f.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "marker") {
		t.Errorf("the first message is %q, %v", buf[:n], err)
	}
}

// More messages than a socket holds are a message.
func TestOverflowIsAMessage(t *testing.T) {
	fresh(t, options("192.168.53.0/24"))
	var both [2]*os.File
	for i := range both {
		var err error
		if both[i], err = openChanges(); err != nil {
			t.Fatal(err)
		}
		defer both[i].Close()
	}
	manyChanges(t)
	buf := make([]byte, 1<<16)
	if _, err := both[0].Read(buf); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("the socket holds all: %v", err)
	}
	if _, ok := read(both[1], buf); !ok {
		t.Error("nothing is read")
	}
}

// manyChanges makes more messages than a socket holds.
func manyChanges(t *testing.T) {
	t.Helper()
	var text strings.Builder
	text.WriteString("add table inet many\ndelete table inet many\nadd table inet many\n")
	for i := range 5000 {
		fmt.Fprintf(&text, "add chain inet many c%d\nadd rule inet many c%d drop\n", i, i)
	}
	if _, err := command(t.Context(), text.String(), "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// Many messages tell as well.
func TestManyChangesAreTold(t *testing.T) {
	c := fresh(t, options("192.168.53.0/24"))
	changes := c.Changes(t.Context())
	manyChanges(t)
	told(t, changes)
	run(t, t.Context(), "nft", "delete", "table", "inet", "many")
	told(t, changes)
}
