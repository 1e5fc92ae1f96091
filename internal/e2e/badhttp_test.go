package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
)

func (o one) badHTTP(t *testing.T, r request) {
	good := o.form().Encode()
	with := func(name string, values ...string) http.Header {
		h := maps.Clone(r.header)
		h[name] = values
		return h
	}
	for _, row := range []struct {
		method, path string
		header       http.Header
		body         string
		status       int
		code         string
	}{
		{"", "/createvm?" + good, nil, "", 400, "invalid"},
		{"", "/createvm?memory=256", nil, good, 400, "invalid"},
		{"", "/createvm?", nil, good, 400, "invalid"},
		{"", "/createvm", with("Content-Type", "application/json"), good, 415, "invalid"},
		{"", "/createvm", with("Content-Type", "text/plain"), good, 415, "invalid"},
		{"", "/createvm", with("Content-Type", "multipart/form-data; boundary=x"), good, 415, "invalid"},
		{"", "/createvm", with("Content-Type", formType+"; charset=latin1"), good, 415, "invalid"},
		{"", "/createvm", with("Content-Type", formType, formType), good, 415, "invalid"},
		{"", "/createvm", with("Content-Type"), good, 415, "invalid"},
		{"", "/createvm", with("Content-Encoding", "gzip"), good, 415, "invalid"},
		{"GET", "/createvm", nil, "", 405, "invalid"},
		{"PUT", "/createvm", nil, good, 405, "invalid"},
		{"PATCH", "/sloan-ws/createvm", nil, good, 405, "invalid"},
		{"BREW", "/createvm", nil, good, 405, "invalid"},
		{"POST", "/listvms", nil, "", 405, "invalid"},
		{"GET", "/listvms?all=1", nil, "", 400, "invalid"},
		{"", "/createvm/", nil, good, 404, "not_found"},
		{"", "//createvm", nil, good, 404, "not_found"},
		{"", "/CREATEVM", nil, good, 404, "not_found"},
		{"", "/sloan-ws", nil, good, 404, "not_found"},
		{"", "/sloan-ws/sloan-ws/createvm", nil, good, 404, "not_found"},
		{"", "/show/../createvm", nil, good, 404, "not_found"},
		{"", "/createvm%00", nil, good, 404, "not_found"},
		{"", "/..%2fcreatevm", nil, good, 404, "not_found"},
		{"", "/" + strings.Repeat("a", 5000), nil, good, 404, "not_found"},
	} {
		t.Run(fmt.Sprintf("%s %.40q %v", row.method, row.path, row.header["Content-Type"]), func(t *testing.T) {
			q := r
			q.method, q.path, q.body = row.method, row.path, row.body
			if row.header != nil {
				q.header = row.header
			}
			a := o.ask(t, q)
			refused(t, a, row.status, row.code)
			if allow := a.header.Get("Allow"); (row.status == 405) != (allow != "") {
				t.Errorf("Allow is %q", allow)
			}
		})
	}
}

// TestNoHTTP sends what is no request at all: it is answered or cut, and the next one is served.
func TestNoHTTP(t *testing.T) {
	h := startHost(t)
	for _, raw := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET / HTTP/9.9\r\n\r\n", "POST /createvm HTTP/1.1\r\n\r\n",
		"POST /show HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "POST /show HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"POST /show HTTP/1.1\r\nHost: a\r\nX-A\x00: b\r\n\r\n", "GET /listvms HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", "127.0.0.1:18080")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, raw) // it may be cut before all is written
		_ = conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		conn.Close()
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 4")) && !bytes.HasPrefix(got, []byte("HTTP/1.1 505")) {
			t.Errorf("%.40q is answered with %.100q", raw, got)
		}
	}
	if a := h.send(as(t, "alice"), "GET", "/listvms", "", ""); a.status != 200 {
		t.Errorf("afterwards: %+v", a)
	}
}
