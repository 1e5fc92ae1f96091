package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api"
	"github.com/capsuled/capsuled/daemon"
)

// A long poll ends with its operation, with its time, or with the server; each with the present state.
func TestLongPoll(t *testing.T) {
	h := start(t, nil)
	h.waiting = make(chan struct{}, 1)
	op := must[daemon.Operation](t)(h.fakeDaemon.DeleteImage(t.Context(), daemon.Caller{GUID: "g", From: "f", Request: "r"}, "image-1"))
	path := "/v1/operations/" + op.ID
	poll := func(wait int) chan answer {
		got := make(chan answer, 1)
		go func() { got <- h.local(t, "GET", fmt.Sprintf("%s?wait=%d", path, wait), "") }()
		<-h.waiting
		return got
	}
	if a := <-poll(1); a.StatusCode != 200 || !strings.Contains(a.body, `"state":"running"`) {
		t.Errorf("when its time is up: %d %s", a.StatusCode, a.body)
	}
	slow := poll(60)
	h.end(op.ID, "")
	if a := <-slow; a.StatusCode != 200 || !strings.Contains(a.body, `"state":"succeeded"`) {
		t.Errorf("when the operation ends: %d %s", a.StatusCode, a.body)
	}
}

func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	h := start(t, nil)
	h.waiting = make(chan struct{}, 1)
	entered, leave := make(chan struct{}), make(chan struct{})
	op := must[daemon.Operation](t)(h.fakeDaemon.DeleteImage(t.Context(), daemon.Caller{GUID: "g", From: "f", Request: "r"}, "image-1"))
	polled, shown := make(chan answer, 1), make(chan answer, 1)
	go func() { polled <- h.local(t, "GET", "/v1/operations/"+op.ID+"?wait=60", "") }()
	<-h.waiting
	h.set(func(f *fakeDaemon) {
		f.before = func(ctx context.Context) {
			if _, ok := ctx.Deadline(); !ok {
				return // the poll's last look
			}
			close(entered)
			<-leave
		}
	})
	go func() { shown <- h.local(t, "POST", "/show", "") }()
	<-entered
	down := make(chan error, 1)
	go func() { down <- h.server.Shutdown(t.Context()) }()
	if a := <-polled; a.StatusCode != 200 || !strings.Contains(a.body, `"state":"running"`) {
		t.Errorf("the long poll gets %d %s", a.StatusCode, a.body)
	}
	select {
	case err := <-down:
		t.Fatalf("down with a request under way: %v", err)
	default:
	}
	close(leave)
	if a := <-shown; a.StatusCode != 200 {
		t.Errorf("the request under way gets %d %s", a.StatusCode, a.body)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("unix", h.socket); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
	if _, err := h.unix.Get("http://capsuled/healthz"); err == nil {
		t.Error("it still answers")
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	h := start(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	h.set(func(f *fakeDaemon) { f.before = func(context.Context) { close(entered); <-leave } })
	cut := make(chan error, 1)
	go func() {
		resp, err := h.unix.Do(request(t, "POST", "http://capsuled/show", ""))
		if err == nil {
			resp.Body.Close()
		}
		cut <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.server.Shutdown(ctx); err == nil {
		t.Error("it shut down in peace")
	}
	if err := <-cut; err == nil {
		t.Error("the request was answered")
	}
	close(leave)
}

// When a listener fails, Serve ends with the reason, and the others with it.
func TestServeEndsWithItsListener(t *testing.T) {
	h := start(t, nil)
	l := must[net.Listener](t)(api.ListenTCP(t.Context(), "127.0.0.1:0", api.TLSFiles{}))
	l.Close()
	if err := h.server.Serve(l); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Error(err)
	}
	if err := <-h.served; err != nil {
		t.Error(err)
	}
	h.served <- nil // for the cleanup
}

func TestPanicIs500(t *testing.T) {
	h := start(t, nil)
	h.set(func(f *fakeDaemon) { f.before = func(context.Context) { panic("the secret-place") } })
	for _, path := range []string{"/listvms", "/v1/images"} {
		a := h.local(t, "GET", path, "", "X-Request-Id: boom")
		if a.StatusCode != 500 || strings.Contains(a.body, "secret-place") {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
		checkEnvelope(t, a, path != "/listvms")
	}
	if log := h.log.String(); !strings.Contains(log, "the secret-place") || !strings.Contains(log, "request=boom") || !strings.Contains(log, "fake_test.go") {
		t.Error(log)
	}
	if a := h.local(t, "GET", "/healthz", ""); a.StatusCode != 200 {
		t.Error(a.StatusCode)
	}
}

func TestRequestIDs(t *testing.T) {
	h := start(t, nil)
	bearer := bearerOf(t, map[string]any{"sub": "alice"})
	for _, row := range []struct {
		name, given string
		from        func(*testing.T, string, string, string, ...string) answer
		kept        bool
	}{
		{"local", "mine-1.a_B", h.local, true},
		{"local, too long", strings.Repeat("x", 65), h.local, false},
		{"local, odd", "a b", h.local, false},
		{"remote", "mine", h.remote, false},
	} {
		a := row.from(t, "GET", "/listvms", "", "X-Request-Id: "+row.given, bearer)
		if got := a.Header.Get("X-Request-Id"); (got == row.given) != row.kept || len(got) < 8 || h.lastCaller().Request != got {
			t.Errorf("%s: %q", row.name, got)
		}
	}
}

func TestReplyHeaders(t *testing.T) {
	h := start(t, nil)
	for _, a := range []answer{h.local(t, "POST", "/show", ""), h.remote(t, "GET", "/nowhere", ""), h.remote(t, "GET", "/listvms", "")} {
		for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "capsuled/1.2.3",
			"Referrer-Policy": "no-referrer", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

func TestAccessLog(t *testing.T) {
	h := start(t, nil)
	h.remote(t, "POST", "/createvm", createForm+"&title=hush", bearerOf(t, map[string]any{"sub": "alice"}))
	h.remote(t, "POST", "/show?vmid=hush", "")
	h.local(t, "GET", "/no%0A%1b[31m%E2%80%AE/"+strings.Repeat("x", 1000), "")
	h.local(t, "GET", "/healthz", "")
	log := h.log.String()
	for _, want := range []string{
		"level=INFO msg=request method=POST path=/createvm status=200 took=", " guid=alice from=127.0.0.1 request=",
		"path=/show status=401", "path=/no%0A%1b[31m%E2%80%AE/xxx", ` guid="" from="unix:uid=0" `,
		"level=DEBUG msg=request method=GET path=/healthz status=200",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	for _, hushed := range []string{"hush", "secret", "eyJ", "\x1b", strings.Repeat("x", 257)} {
		if strings.Contains(log, hushed) {
			t.Errorf("%q is in\n%s", hushed, log)
		}
	}
}

func TestHeaderLimit(t *testing.T) {
	h := start(t, nil)
	if a := h.remote(t, "GET", "/healthz", "", "X-Big: "+strings.Repeat("x", 64<<10)); a.StatusCode != 431 {
		t.Error(a.StatusCode)
	}
}

// Over the limit a connection waits, is served when another ends, and does not keep local administrators out.
func TestConnectionLimit(t *testing.T) {
	h := start(t, func(o *api.Options) { o.MaxConnections = 2 })
	entered, leave := make(chan struct{}), make(chan struct{})
	h.set(func(f *fakeDaemon) { f.before = func(context.Context) { entered <- struct{}{}; <-leave } })
	addr := strings.TrimPrefix(h.tcpURL, "http://")
	conns := make([]net.Conn, 3)
	for i, path := range []string{"/listvms", "/listvms", "/healthz"} {
		conns[i] = must[net.Conn](t)(net.Dial("tcp", addr))
		defer conns[i].Close()
		fmt.Fprintf(conns[i], "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", path, bearerOf(t, map[string]any{"sub": fmt.Sprint("user", i)}))
		if i < 2 {
			<-entered // under way, so that it keeps its slot
		}
	}
	if a := h.local(t, "GET", "/metrics", ""); !strings.Contains(a.body, `capsuled_api_connections{network="tcp"} 2`+"\n") {
		t.Errorf("not two connections:\n%s", a.body)
	}
	close(leave)
	for _, c := range conns {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
	}
}

// Clients without identity cannot keep the others out by idling on connections that have been answered.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	h := start(t, func(o *api.Options) { o.MaxConnections = 4 })
	addr := strings.TrimPrefix(h.tcpURL, "http://")
	kept := 0
	for range 12 { // three times what there is room for, and none of them hangs up
		conn := must[net.Conn](t)(net.Dial("tcp", addr))
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		if !resp.Close {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d connections are kept, and half of 4 should be", kept)
	}
}

func TestSlowHeadersAreCut(t *testing.T) {
	h := start(t, nil)
	conn := must[net.Conn](t)(net.Dial("unix", h.socket))
	defer conn.Close()
	fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost:")
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil && n > 0 {
		return // 408 or 400, then the end
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("half a header may stay for a minute")
	}
}
