package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/capsuled/capsuled/api/wire"
)

// TestMain lets the scripts run this very binary as capsulectl.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"capsulectl": main})
}

// A script begins with a daemon that holds the image "base" and listens on CAPSULED_SOCKET, and commands it with
// "daemon"; see daemonCommands.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			daemon := newFakeDaemon()
			daemon.AddImage(wire.Image{ID: baseImage, Name: "base", State: "ACTIVE", Owner: "root", Format: "qcow2",
				FileBytes: 20 << 20, VirtualBytes: 96 << 20, LoginUser: "dcuser", LoginPassword: "image-secret",
				CreatedAt: epoch, UpdatedAt: epoch})
			env.Values["daemon"] = daemon
			socket, stop, err := serveUnix(daemon)
			if err != nil {
				return err
			}
			env.Values["stop"] = stop
			env.Defer(stop)
			env.Setenv("CAPSULED_SOCKET", socket)
			env.Setenv("GORACE", quickExit)
			old, err := filepath.Abs("../../firewall/policy/testdata/fw")
			env.Setenv("OLD", old) // policies as the scripts of old had them
			if err != nil {
				return err
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"daemon": commandDaemon},
	})
}

// quickExit keeps a process built with the race detector from lingering a second for races after its end.
const quickExit = "atexit_sleep_ms=0"

const baseImage = "b0ba5e00-0000-4000-8000-000000000000"

// serveUnix serves on a socket in a directory of its own: a script's directory can be too long for one.
func serveUnix(h http.Handler) (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "cc")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, err
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	return socket, func() { server.CloseClientConnections(); server.Close(); os.RemoveAll(dir) }, nil
}

// daemonCommands of a script: "daemon NAME ARGS...".
var daemonCommands = map[string]func(*testscript.TestScript, *fakeDaemon, []string){
	// tls TOKEN: listens on TCP too, with URL in the environment, ca.pem and token in the script's directory.
	"tls": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		d.mu.Lock()
		d.token = args[0]
		d.mu.Unlock()
		server := httptest.NewUnstartedServer(d)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that trusts nobody is part of the test
		server.StartTLS()
		ts.Defer(server.Close)
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), block, 0o600))
		ts.Check(os.WriteFile(ts.MkAbs("token"), []byte(args[0]+"\n"), 0o600))
		ts.Setenv("URL", server.URL)
	},
	// stop: nobody listens any more.
	"stop": func(ts *testscript.TestScript, _ *fakeDaemon, _ []string) { ts.Value("stop").(func())() },
	// capsule FILE [others]: adds the capsule of a JSON file, the caller's own or somebody else's.
	"capsule": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		var status wire.Status
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &status))
		d.AddCapsule(status, len(args) == 1)
	},
	"image": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		var image wire.Image
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &image))
		d.AddImage(image)
	},
	"operation": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		var op wire.Operation
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &op))
		d.AddOperation(op)
	},
	"fail": func(_ *testscript.TestScript, d *fakeDaemon, args []string) {
		d.Fail(args[0], args[1], args[2], args[3])
	},
	// refuse CODE MESSAGE: the next call is refused; the message is a Go string without its quotes.
	"refuse": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		message, err := strconv.Unquote(`"` + args[1] + `"`)
		ts.Check(err)
		d.Refuse(args[0], message)
	},
	// answer CALL FILE: the call, such as 'GET /v1/doctor', is answered with the JSON of a file from now on.
	"answer": func(ts *testscript.TestScript, d *fakeDaemon, args []string) { d.Answer(args[0], ts.ReadFile(args[1])) },
	// cut N: the next transfer of an image's bytes ends after N of them.
	"cut": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		d.Cut(n)
	},
	"hold":    func(_ *testscript.TestScript, d *fakeDaemon, _ []string) { d.Hold() },
	"release": func(_ *testscript.TestScript, d *fakeDaemon, _ []string) { d.Release() },
	"polled":  func(_ *testscript.TestScript, d *fakeDaemon, _ []string) { <-d.Polled() },
	// password VMID VALUE: the capsule has this console password.
	"password": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		if c, _ := d.Capsule(args[0]); c.VNCLoginPassword != args[1] {
			ts.Fatalf("capsule %s has the password %q", args[0], c.VNCLoginPassword)
		}
	},
	// forget: the calls so far are not asked about.
	"forget": func(_ *testscript.TestScript, d *fakeDaemon, _ []string) { d.Calls() },
	// calls CALL...: these were the calls since the last time, and no others.
	"calls": func(ts *testscript.TestScript, d *fakeDaemon, args []string) {
		if got := strings.Join(d.Calls(), "\n"); got != strings.Join(args, "\n") {
			ts.Fatalf("the calls were\n%s", got)
		}
	},
}

func commandDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || daemonCommands[args[0]] == nil {
		ts.Fatalf("usage: daemon NAME ARGS..., one of the table")
	}
	daemonCommands[args[0]](ts, ts.Value("daemon").(*fakeDaemon), args[1:])
}

// The table in the reference is the table of the code.
func TestExitTableIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/capsulectl.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, exit := range exits {
		row := fmt.Sprintf("| %d | %s | %s |", exit.status, exit.meaning, strings.Join(exit.codes, ", "))
		if !strings.Contains(string(doc), row+"\n") {
			t.Errorf("docs/capsulectl.md lacks the row\n%s", row)
		}
	}
}
