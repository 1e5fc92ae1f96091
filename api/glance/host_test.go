package glance_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/api/glance"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

const (
	unknownID = "00000000-0000-4000-8000-000000000000"
	patchType = "application/openstack-images-v2.1-json-patch"
)

// world is the dialect in front of a daemon in memory.
type world struct {
	dialecttest.Host
	daemon *daemontest.Images
}

func newWorld(t testing.TB) *world {
	d := daemontest.New(t)
	return &world{Host: dialecttest.Host{T: t, Family: glance.New(d)}, daemon: d}
}

func (w *world) ask(method, path, body string, headers ...string) dialecttest.Answer {
	w.T.Helper()
	kind := "application/json"
	switch {
	case method == "PATCH":
		kind = patchType
	case strings.HasSuffix(path, "/file"):
		kind = "application/octet-stream"
	}
	return w.Ask(method, "/image"+path, body, append([]string{"Content-Type", kind}, headers...)...)
}

// active puts an image there that is ACTIVE, unless i says otherwise.
func (w *world) active(i daemon.Image) string { return dialecttest.Put(w.daemon, i, "0123456789") }

// expect is Want, and that the reply has the dialect's form.
func expect(t *testing.T, a dialecttest.Answer, status int, piece string) {
	t.Helper()
	a.Want(t, status, piece)
	if a.Header.Get("X-Openstack-Request-Id") != "req-REQUEST" {
		t.Errorf("the reply has no request id: %v", a.Header)
	}
	if status < 400 {
		return
	}
	var fault map[string]struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal([]byte(a.Body), &fault); err != nil || fault["error"].Code != status || fault["error"].Message == "" {
		t.Errorf("no fault: %s", a.Body)
	}
}
