package horizon_test

import (
	"encoding/json"
	"testing"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/api/horizon"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

// world is the dialect in front of a daemon in memory.
type world struct {
	dialecttest.Host
	daemon *daemontest.Images
}

func newWorld(t testing.TB) *world {
	d := daemontest.New(t)
	return &world{Host: dialecttest.Host{T: t, Family: horizon.New(d)}, daemon: d}
}

// ajax asks as the dashboard does.
func (w *world) ajax(method, target, body string, headers ...string) dialecttest.Answer {
	w.T.Helper()
	return w.Ask(method, target, body, append([]string{"X-Requested-With", "XMLHttpRequest", "Content-Type", "application/json;charset=utf-8"}, headers...)...)
}

// active puts an image there that is ACTIVE, unless i says otherwise.
func (w *world) active(i daemon.Image) string { return dialecttest.Put(w.daemon, i, "bytes") }

// expect is Want, and that the reply has the dialect's form.
func expect(t *testing.T, a dialecttest.Answer, status int, piece string) {
	t.Helper()
	a.Want(t, status, piece)
	if status >= 400 && status != 405 {
		var message string
		if err := json.Unmarshal([]byte(a.Body), &message); err != nil || message == "" || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("no bare JSON string: %s %s", a.Header.Get("Content-Type"), a.Body)
		}
	}
	if status == 204 && (a.Body != "" || a.Header.Get("Content-Type") != "") {
		t.Errorf("204 with %q", a.Body)
	}
}
