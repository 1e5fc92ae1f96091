package api

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
)

var (
	publicHost = regexp.MustCompile(`\A(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]*)?\z`)
	publicPath = regexp.MustCompile(`\A(?:/[A-Za-z0-9._~-]+)*\z`)
)

// CheckPublicURL accepts what links can begin with: an absolute URL in http or https, with a path or without. Paths of ours
// follow, so it has no closing slash, and nothing of a URL that would not come last.
func CheckPublicURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || s != u.Scheme+"://"+u.Host+u.Path ||
		!publicHost.MatchString(u.Host) || !publicPath.MatchString(u.Path) || u.Path != "" && path.Clean(u.Path) != u.Path {
		return errors.New("must be http:// or https:// and a host, with :PORT and /PREFIX or without, and no closing slash, user, query, fragment or escape")
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil && u.Port() != "" {
		return errors.New("must have a port from 1 to 65535")
	}
	return nil
}

// base is what a reply's links begin with: the public URL, or how the caller reached this server. Nothing that a proxy says
// is believed.
func (s *Server) base(r *http.Request) string {
	if s.public != "" {
		return s.public
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}
