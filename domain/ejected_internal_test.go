package domain

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEjected: what a guest puts out and libvirt takes out of the live document is named.
func TestEjected(t *testing.T) {
	doc := someDocument(t)
	defined, err := parseNode(doc)
	if err != nil {
		t.Fatal(err)
	}
	if got := ejected(defined, defined); len(got) > 0 {
		t.Errorf("nothing is gone: %v", got)
	}
	cut := func(doc, from, to string) string {
		head, rest, ok := strings.Cut(doc, from)
		_, tail, ok2 := strings.Cut(rest, to)
		if !ok || !ok2 {
			t.Fatalf("the document has no %s", from)
		}
		return head + tail
	}
	doc = cut(doc, "<rng ", "</rng>")
	doc = cut(doc, "<channel ", "</channel>")
	live, err := parseNode(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"channel unix virtio org.qemu.guest_agent.0", "rng virtio"}, ejected(defined, live)); diff != "" {
		t.Error(diff)
	}
	if got := ejected(nil, live); got != nil {
		t.Errorf("of a transient domain: %v", got)
	}
}
