package api_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/capsuled/capsuled/api"
)

// TestShareOfConnections: one caller does not take all connections, in whatever dialects, and gets on when requests end.
func TestShareOfConnections(t *testing.T) {
	h := start(t, func(o *api.Options) { o.MaxConnections = 6 })
	entered, leave := make(chan struct{}), make(chan struct{})
	h.set(func(f *fakeDaemon) { f.before = func(context.Context) { entered <- struct{}{}; <-leave } })
	ask := func(who, path string) *http.Request {
		r := request(t, "GET", h.tcpURL+path, "")
		r.Header.Set("X-Auth-Token", sign(t, map[string]any{"sub": who}, jwt.SigningMethodHS256, []byte(secret)))
		return r
	}
	answers := make(chan int, 6)
	begin := func(who, path string) {
		r := ask(who, path)
		go func() {
			resp, err := h.tcp.Do(r)
			if err != nil {
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
		<-entered
	}
	for _, path := range []string{"/v1/images", "/v2.1/images", "/listvms"} {
		begin("alice", path)
	}
	for path, status := range map[string]int{"/v1/images": 503, "/v2.1/images": 503, "/api/v1.1/images": 503} {
		if a := do(t, h.tcp, ask("alice", path)); a.StatusCode != status || a.Header.Get("Retry-After") == "" {
			t.Errorf("a fourth, %s: %d %s", path, a.StatusCode, a.body)
		}
	}
	begin("bob", "/v1/images")
	begin("boss", "/v1/images")
	close(leave)
	for range 5 {
		if status := <-answers; status != 200 {
			t.Errorf("%d", status)
		}
	}
	h.set(func(f *fakeDaemon) { f.before = nil })
	for range 4 {
		if a := do(t, h.tcp, ask("alice", "/v1/images")); a.StatusCode != 200 {
			t.Errorf("afterwards: %d %s", a.StatusCode, a.body)
		}
	}
}
