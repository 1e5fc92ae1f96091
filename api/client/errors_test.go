package client_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

func TestErrorDecoding(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header []string
		body   string
		want   client.Error
	}{
		{"capsule dialect", 400, []string{wire.ErrorCodeHeader, "busy", "X-Request-Id", "r1"},
			`{"statusCode":400,"description":"wait"}`, client.Error{Status: 400, Code: "busy", Message: "wait", RequestID: "r1"}},
		{"capsule dialect without code", 400, nil,
			`{"statusCode":400,"description":"no"}`, client.Error{Status: 400, Code: "invalid", Message: "no"}},
		{"native dialect", 409, nil, `{"code":"conflict","message":"taken","request_id":"r2"}`,
			client.Error{Status: 409, Code: "conflict", Message: "taken", RequestID: "r2"}},
		{"header before body", 409, []string{wire.ErrorCodeHeader, "busy"}, `{"code":"conflict","message":"m"}`,
			client.Error{Status: 409, Code: "busy", Message: "m"}},
		{"unknown code", 404, []string{wire.ErrorCodeHeader, "teapot"}, `{"code":"kettle","message":"m"}`,
			client.Error{Status: 404, Code: "not_found", Message: "m"}},
		{"proxy's page", 502, nil, "<html>\x1b]0;hi</html>",
			client.Error{Status: 502, Code: "unavailable", Message: "the daemon answered 502 Bad Gateway"}},
		{"empty", 507, nil, "", client.Error{Status: 507, Code: "exhausted", Message: "the daemon answered 507 Insufficient Storage"}},
		{"odd status", 418, nil, "", client.Error{Status: 418, Code: "internal", Message: "the daemon answered 418 I'm a teapot"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, answer(tt.status, tt.body, tt.header...))
			_, err := c.ShowCapsules(t.Context(), "")
			got, ok := errors.AsType[*client.Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRepliesThatAreNone(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"not JSON":      answer(200, "<html>"),
		"trailing data": answer(200, `{"status":[]}{"status":[]}`),
		"wrong type":    answer(200, `{"status":"x"}`),
		"empty":         answer(200, ""),
		"redirect":      answer(302, "", "Location", "http://example.org/"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := serve(t, h).ShowCapsules(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "is that capsuled?") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestIDsNeverLeaveTheirPlace(t *testing.T) {
	daemon := scripted(answer(200, "{}"))
	c := serve(t, daemon)
	for _, id := range []string{"", ".", "..", "../images", "a/b", "a?b", "a%2fb", "a\nb", strings.Repeat("a", 65)} {
		_, imageErr := c.Image(t.Context(), id)
		_, deleteErr := c.DeleteImage(t.Context(), id)
		_, operationErr := c.Operation(t.Context(), id, 0)
		_, launchErr := c.LaunchCapsule(t.Context(), id)
		_, switchErr := c.SwitchCapsule(t.Context(), id, "secure", false)
		_, resumeErr := c.ResumeCapsule(t.Context(), id)
		typeErr := c.SetCapsuleType(t.Context(), id, "DEMO")
		_, proofErr := c.Proof(t.Context(), id)
		_, explainErr := c.ExplainPacket(t.Context(), id, "tcp to 192.0.2.1:443")
		for _, err := range []error{imageErr, deleteErr, operationErr, launchErr, switchErr, resumeErr, typeErr, proofErr, explainErr} {
			if !client.Is(err, client.Invalid) {
				t.Errorf("id %q: %v", id, err)
			}
		}
	}
	if calls := daemon.asked(); len(calls) != 0 {
		t.Errorf("calls were made: %q", calls)
	}
}

// The operation's path comes from the other side and ends in a path and on a terminal.
func TestOperationLocation(t *testing.T) {
	for location, want := range map[string]string{
		"/v1/operations/abc-1":                 "abc-1",
		"https://h:8080/x/v1/operations/abc-1": "abc-1",
		"":                                     "",
		"/v1/operations/":                      "",
		"/v1/operations/../images/x":           "",
		"/v1/operations/a?b":                   "",
		"/elsewhere/abc":                       "",
	} {
		c := serve(t, answer(200, "", wire.OperationHeader, location))
		if got, err := c.LaunchCapsule(t.Context(), "a1"); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", location, got, err, want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.sock")
	_, err := connect(t, client.Options{Socket: missing}).ListCapsules(t.Context())
	want := "cannot reach capsuled at unix socket " + missing + ": no such file or directory: is it running? (systemctl status capsuled)"
	if _, ok := errors.AsType[*client.Unreachable](err); !ok || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}

	daemon := scripted(drop)
	_, err = serve(t, daemon).LaunchCapsule(t.Context(), "a1")
	if _, ok := errors.AsType[*client.Unreachable](err); !ok || !strings.Contains(err.Error(), "ended before an answer") {
		t.Errorf("dropped: %v", err)
	}
	if calls := daemon.asked(); len(calls) != 1 {
		t.Errorf("a call that changes something was repeated: %q", calls)
	}
}

func TestNoAnswerInTime(t *testing.T) {
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := serve(t, silent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ListCapsules(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	socket := strings.TrimPrefix(c.Target(), "unix socket ")
	_, err := connect(t, client.Options{Socket: socket, Timeout: time.Millisecond}).ListCapsules(t.Context())
	if _, ok := errors.AsType[*client.Unreachable](err); !ok || !strings.Contains(err.Error(), "no answer within 1ms") {
		t.Errorf("timeout: %v", err)
	}
}

func TestReady(t *testing.T) {
	c := serve(t, answer(503, `{"status":"waiting","reasons":["libvirt: connection refused"]}`))
	h, err := c.Ready(t.Context())
	if diff := cmp.Diff(wire.Health{Status: "waiting", Reasons: []string{"libvirt: connection refused"}}, h); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, body := range []string{"<html>", "{}", `{"message":"x"}`} {
		if h, err := serve(t, answer(503, body)).Ready(t.Context()); !client.Is(err, client.Unavailable) {
			t.Errorf("%s: %+v, %v", body, h, err)
		}
	}
}

func TestWait(t *testing.T) {
	away := answer(503, `{"code":"unavailable","message":"starting"}`)
	for _, tt := range []struct {
		name    string
		answers []http.Handler
		steps   []string // every state seen
		last    string   // "" for an error
	}{
		{"every step is seen", []http.Handler{state("running", "a"), state("running", "b"), state("succeeded", "b")},
			[]string{"a", "b", "b"}, "succeeded"},
		{"a failed operation is no error of Wait", []http.Handler{state("running", "a"), state("failed", "a")},
			[]string{"a", "a"}, "failed"},
		{"the daemon goes away and comes back",
			[]http.Handler{state("running", "a"), drop, drop, drop, away, state("running", "b"), away, state("succeeded", "b")},
			[]string{"a", "b", "b"}, "succeeded"},
		{"a daemon that was never there is not waited for", []http.Handler{drop, drop, state("succeeded", "a")}, nil, ""},
		{"an unknown operation is not waited for", []http.Handler{answer(404, ""), state("succeeded", "a")}, nil, ""},
		{"an operation that is gone is not waited for",
			[]http.Handler{state("running", "a"), answer(404, ""), state("succeeded", "a")}, []string{"a"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, scripted(tt.answers...))
			var steps []string
			// A fresh connection for each poll: net/http itself asks again on one that was idle.
			op, err := c.Wait(t.Context(), "op-1", func(op wire.Operation) { steps = append(steps, op.Step); c.Close() })
			if (err == nil) != (tt.last != "") || op.State != tt.last {
				t.Errorf("Wait = %+v, %v", op, err)
			}
			if diff := cmp.Diff(tt.steps, steps); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("the caller stops waiting", func(t *testing.T) {
		c := serve(t, state("running", "a"))
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.Wait(ctx, "op-1", func(wire.Operation) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
