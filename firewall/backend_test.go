package firewall

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Tables of the legacy backend are told once, in the log and the metrics, and are no difference.
func TestLegacyTables(t *testing.T) {
	o := options("192.168.53.0/24")
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	c := fresh(t, o)
	apply(t, t.Context(), c, nil)
	if n := testutil.ToFloat64(c.metrics.legacy); n != 0 || log.Len() > 0 {
		t.Errorf("%v legacy tables before there are any: %s", n, &log)
	}
	run(t, t.Context(), "iptables-legacy", "-A", "FORWARD", "-s", "203.0.113.9", "-j", "DROP")
	t.Cleanup(func() { run(t, bare(t), "iptables-legacy", "-F", "FORWARD") })
	for range 2 {
		wantVerified(t, t.Context(), c)
	}
	if n := testutil.ToFloat64(c.metrics.legacy); n != 1 {
		t.Errorf("%v legacy tables, want 1", n)
	}
	if n := strings.Count(log.String(), `tables="ipv4 filter"`); n != 1 {
		t.Errorf("told %d times, want once: %s", n, &log)
	}
}

// Whoever changes a rule, the next Verify and Apply do not rely on what was read before.
func TestChangesByOthersAreReadAgain(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	all := bindings(o, 3)
	apply(t, t.Context(), c, all)
	if !c.stillRight(t.Context()) {
		t.Error("read again where nobody changed anything")
	}
	for _, change := range [][]string{
		{"iptables", "-F", "CAPSULED-HOST"},
		{"ip6tables", "-D", "INPUT", "-j", "CAPSULED-INPUT"},
		{"nft", "delete", "element", "bridge", "capsuled", "taps", `{ "` + all[0].Tap + `" }`},
	} {
		run(t, t.Context(), change...)
		if c.stillRight(t.Context()) {
			t.Errorf("not noticed: %v", change)
		}
		if diffs, err := c.Verify(t.Context()); err != nil || len(diffs) == 0 {
			t.Errorf("after %v: %v, %v", change, diffs, err)
		}
		apply(t, t.Context(), c, all)
	}
}

// Elements that Put adds have the keys that nft would give them, to the last byte that a listing does not show.
func TestKeysAreThoseOfNFT(t *testing.T) {
	o := options("192.168.53.0/24")
	c := fresh(t, o)
	t.Cleanup(c.Close)
	apply(t, t.Context(), c, nil)
	b := bindings(o, 1)[0]
	if err := c.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, p := range o.pins(b) {
		run(t, t.Context(), "nft", "get", "element", "bridge", "capsuled", p.set, "{ "+p.text+" }")
	}
}
