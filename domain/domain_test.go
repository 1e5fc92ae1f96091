package domain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"
)

func TestClass(t *testing.T) {
	lv := func(code libvirt.ErrorNumber, text string) error { return libvirt.Error{Code: code, Message: text} }
	for _, row := range []struct {
		err  error
		want error
	}{
		{lv(libvirt.ERR_NO_DOMAIN, ""), ErrNotFound},
		{lv(libvirt.ERR_NO_DOMAIN_METADATA, ""), ErrNotFound},
		{lv(libvirt.ERR_OPERATION_INVALID, ""), ErrConflict},
		{lv(libvirt.ERR_OPERATION_TIMEOUT, ""), ErrBusy},
		{lv(libvirt.ERR_RESOURCE_BUSY, ""), ErrBusy},
		{lv(libvirt.ERR_CONFIG_UNSUPPORTED, ""), ErrUnsupported},
		{lv(libvirt.ERR_NO_CONNECT, ""), ErrUnavailable},
		{lv(libvirt.ERR_RPC, ""), ErrUnavailable},
		{lv(libvirt.ERR_AGENT_UNRESPONSIVE, ""), ErrUnresponsive},
		{lv(libvirt.ERR_SYSTEM_ERROR, "cannot write: No space left on device"), ErrExhausted},
		{lv(libvirt.ERR_INTERNAL_ERROR, "pc.ram: Cannot allocate memory"), ErrExhausted},
		{lv(libvirt.ERR_INTERNAL_ERROR, "Failed to reserve port 5900"), ErrConflict},
		{lv(libvirt.ERR_XML_ERROR, "No space left on device"), nil},
		{lv(libvirt.ERR_OPERATION_FAILED, "cannot write: No space left on device"), ErrExhausted},
		{lv(libvirt.ERR_INTERNAL_ERROR, "else"), nil},
		{lv(libvirt.ERR_SYSTEM_ERROR, "End of file while reading data: Input/output error"), nil},
		{libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_RPC, Message: "End of file while reading data: Input/output error"}, ErrUnavailable},
		{libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Domain: libvirt.FROM_RPC, Message: "connection closed due to keepalive timeout"}, ErrUnavailable},
		{libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_QEMU, Message: "Unable to read from monitor: Connection reset by peer"}, nil},
		{context.DeadlineExceeded, ErrUnavailable},
		{context.Canceled, ErrUnavailable},
		{os.ErrNotExist, nil},
	} {
		err := wrap("act", fmt.Errorf("deeper: %w", row.err))
		if class(row.err) != row.want || !errors.Is(err, row.err) || (row.want != nil && !errors.Is(err, row.want)) {
			t.Errorf("%v: class %v, wrapped %v; want %v", row.err, class(row.err), err, row.want)
		}
	}
	if wrap("act", nil) != nil {
		t.Error("wrapped nothing into something")
	}
}

func TestTranslate(t *testing.T) {
	for _, row := range []struct {
		state  libvirt.DomainState
		reason int
		want   RunState
		why    Reason
	}{
		{libvirt.DOMAIN_NOSTATE, 0, Unknown, ReasonNone},
		{99, 0, Unknown, ReasonNone},
		{libvirt.DOMAIN_RUNNING, 1, Running, ReasonNone},
		{libvirt.DOMAIN_SHUTDOWN, 1, Running, ReasonNone},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_IOERROR), Paused, ReasonIOError},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_USER), Paused, ReasonOther},
		{libvirt.DOMAIN_CRASHED, 0, Paused, ReasonCrashed},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_DAEMON), Off, ReasonDaemon},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_SAVED), Off, ReasonOther},
		{libvirt.DOMAIN_SHUTOFF, 99, Off, ReasonOther},
	} {
		if s, r := translate(row.state, row.reason); s != row.want || r != row.why {
			t.Errorf("%v %d: %v %q, want %v %q", row.state, row.reason, s, r, row.want, row.why)
		}
	}
}

func TestEventQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newEventQueue()
		ctx, cancel := context.WithCancel(t.Context())
		go q.pump(ctx)
		synctest.Wait()
		q.add("a")
		synctest.Wait() // the pump holds a now
		for _, id := range []ID{"b", "c", "b", "a", "c"} {
			q.add(id)
		}
		var got []ID
		for range 4 {
			got = append(got, (<-q.out).ID)
		}
		if diff := cmp.Diff([]ID{"a", "b", "c", "a"}, got); diff != "" {
			t.Error(diff)
		}
		// Nobody reads for long: what is kept stays bounded, and nothing is lost but detail.
		q.add("held")
		synctest.Wait()
		for i := range maxPending + 10 {
			q.add(ID(fmt.Sprint(i)))
		}
		if first, second := <-q.out, <-q.out; first.ID != "held" || second.ID != "" {
			t.Errorf("got %v, %v", first, second)
		}
		q.add("after")
		if e := <-q.out; e.ID != "after" {
			t.Errorf("got %v", e)
		}
		cancel()
		if _, open := <-q.out; open {
			t.Error("not closed")
		}
	})
}

func TestWatchers(t *testing.T) {
	var w watchers
	a, done := w.watch("a")
	all, doneAll := w.watch("")
	w.signal("b")
	w.signal("a")
	w.signal("a") // never blocks
	if len(a) != 1 || len(all) != 0 {
		t.Errorf("%d for a, %d for everything", len(a), len(all))
	}
	<-a
	w.signal("")
	if len(a) != 1 || len(all) != 1 {
		t.Errorf("%d for a, %d for everything", len(a), len(all))
	}
	done()
	doneAll()
	if len(w.m) != 0 {
		t.Errorf("left: %v", w.m)
	}
}

func TestProbeKVM(t *testing.T) {
	dir := t.TempDir()
	with := filepath.Join(dir, "with")
	if err := os.WriteFile(with, []byte("processor\t: 0\nflags\t\t: fpu vme svm npt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	without := filepath.Join(dir, "without")
	if err := os.WriteFile(without, []byte("flags : fpu vmx_not\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ cpu, node, text string }{
		"no flag":         {without, os.DevNull, "no vmx or svm"},
		"no cpuinfo":      {filepath.Join(dir, "none"), os.DevNull, "no such file"},
		"no node":         {with, filepath.Join(dir, "none"), "no such file"},
		"not a kvm node":  {with, os.DevNull, "API version"},
		"a file for node": {with, with, "API version"},
	} {
		if err := probeKVM(row.cpu, row.node); err == nil || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !announces(bufio.NewScanner(strings.NewReader("flags : a vmx b\n"))) {
		t.Error("vmx not seen")
	}
}

func TestIdentityReadsBack(t *testing.T) {
	s := Spec{Name: "n", Record: `r<>&"'`, Labels: map[string]string{"user": `a & <b>`, "project": "p"}}
	doc, err := marshalMark(s)
	if err != nil {
		t.Fatal(err)
	}
	// libvirt may hand it back under another prefix.
	for _, doc := range []string{doc, strings.ReplaceAll(doc, "capsuled:", "x:"), strings.ReplaceAll(doc, "xmlns:capsuled", "xmlns:x")} {
		who, err := parseIdentity(doc)
		if err != nil || who.Record != s.Record || who.Hash != SpecHash(s) || who.label("user") != s.Labels["user"] || who.label("none") != "" {
			t.Errorf("%+v, %v", who, err)
		}
	}
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{"192.168.53.0/24": "192.168.53.255", "10.0.0.8/29": "10.0.0.15", "172.16.0.0/12": "172.31.255.255"} {
		if got := broadcast(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s: %s", prefix, got)
		}
	}
}
