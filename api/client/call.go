package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// maxReply bounds what is read of one reply: some 10,000 capsules.
const maxReply = 64 << 20

// call is one request and what to make of its reply.
type call struct {
	method string
	path   string
	query  url.Values
	form   url.Values    // body of the capsule dialect; nil for none
	json   any           // body of the native dialect; nil for none
	wait   time.Duration // what a long poll asks for, beside the client's timeout
	also   int           // a status beside 2xx whose body is a reply, not an error
	out    any           // decoded into; nil when the body is empty
}

// do makes the call and returns the reply's header. It is done once: a call that may have taken effect is not repeated.
func (c *Client) do(ctx context.Context, call call) (http.Header, error) {
	limit := c.timeout + call.wait
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := c.request(bounded, call)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, limit, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, c.unreachable(ctx, limit, err)
	}
	if len(body) > maxReply {
		return nil, fmt.Errorf("client: %s %s: the reply is longer than %d bytes", call.method, call.path, maxReply)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, fmt.Errorf("client: %s redirects elsewhere, and redirects are not followed: is that capsuled?", c.target)
	}
	if resp.StatusCode >= 400 && (resp.StatusCode != call.also || json.Unmarshal(body, call.out) != nil) {
		return nil, decodeError(resp, body)
	}
	if call.out == nil {
		return resp.Header, nil
	}
	if err := json.Unmarshal(body, call.out); err != nil {
		return nil, fmt.Errorf("client: %s %s: no JSON in the reply: is that capsuled? %w", call.method, call.path, err)
	}
	return resp.Header, nil
}

func (c *Client) request(ctx context.Context, call call) (*http.Request, error) {
	u := c.base
	u.Path += call.path
	u.RawQuery = call.query.Encode()
	var body io.Reader
	contentType := ""
	switch {
	case call.form != nil:
		body, contentType = strings.NewReader(call.form.Encode()), "application/x-www-form-urlencoded"
	case call.json != nil:
		raw, err := json.Marshal(call.json)
		if err != nil {
			return nil, fmt.Errorf("client: encode %s %s: %w", call.method, call.path, err)
		}
		body, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, call.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("client: %s %s: %w", call.method, call.path, err)
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.opt.UserAgent != "" {
		req.Header.Set("User-Agent", c.opt.UserAgent)
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// idPattern is wider than any id of the daemon, and narrow enough to stand in a path as it is.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// checkID refuses what cannot be an id before it becomes part of a path.
func checkID(what, id string) error {
	if idPattern.MatchString(id) {
		return nil
	}
	return &Error{Code: Invalid, Message: fmt.Sprintf("%q is not the id of %s", id, what)}
}

// operationID reads the id out of a reply's Operation-Location, or returns "" when there is none.
func operationID(h http.Header) string {
	_, id, found := strings.Cut(h.Get(wire.OperationHeader), "/v1/operations/")
	if !found || !idPattern.MatchString(id) {
		return ""
	}
	return id
}
