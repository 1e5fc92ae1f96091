package synnefo_test

import (
	"testing"
)

// TestKeys wants a key to be all that follows, with one suffix gone.
func TestKeys(t *testing.T) {
	for _, row := range []struct {
		path, key string
		xml       bool
	}{
		{"a", "a", false},
		{"a.json", "a", false},
		{"a.xml", "a", true},
		{"x.json.json", "x.json", false},
		{"x.xml.json", "x.xml", false},
		{"x.json.xml", "x.json", true},
		{"a/b", "a/b", false},
		{"a%2Fb", "a/b", false},
		{"a/b.json", "a/b", false},
		{"k/", "k/", false},
		{"/", "/", false},
		{"//", "//", false},
		{"a//b", "a//b", false},
		{".", ".", false},
		{"..", "..", false},
		{"../../x", "../../x", false},
		{"%2e%2e/x", "../x", false},
		{".json", ".json", false},
		{".xml", ".xml", true},
		{"ajson", "ajson", false},
		{"a.jsonx", "a.jsonx", false},
		{"a%2Ejson", "a", false},
		{"a+b", "a+b", false},
		{"a%2Bb", "a+b", false},
		{"a%20b", "a b", false},
		{"a%2520b", "a%20b", false},
		{"%E2%98%90", "☐", false},
		{"%F0%9F%98%80", "😀", false},
		{"e%CC%81", "e\u0301", false}, // is not made one character
		{"a%3Fb%23c", "a?b#c", false},
		{"K", "K", false},
	} {
		each(t, func(t *testing.T, e edition) {
			t.Run(row.path, func(t *testing.T) {
				f := newFake(image(alpha, "", with(map[string]string{row.key: "found", "a.": "another", "k": "another"})))
				a := newHost(t, f).ask("GET", e.path("/"+alpha+"/META/"+row.path), "")
				if row.xml {
					if a.Status != 200 || a.MediaType != "application/xml; charset=UTF-8" {
						t.Fatalf("%d %s %s", a.Status, a.MediaType, a.Body)
					}
					return
				}
				if f := decoded(t, string(a.Body)).(map[string]any)["meta"]; a.Status != 200 || f.(map[string]any)[row.key] != "found" {
					t.Errorf("%d %s", a.Status, a.Body)
				}
			})
		})
	}
}

// TestSuffixes wants a suffix on every path that may have one, and the rest to be no paths.
func TestSuffixes(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, newFake(image(alpha, "", with(map[string]string{"a": "b"}))))
		for _, path := range []string{"", "/detail", "/" + alpha, "/" + alpha + "/META", "/" + alpha + "/META/a"} {
			for suffix, want := range map[string]string{"": "application/json", ".json": "application/json", ".xml": "application/xml"} {
				a := h.ask("GET", e.path(path)+suffix, "")
				if a.Status != 200 || a.MediaType != want+"; charset=UTF-8" {
					t.Errorf("%s: %d %s", a.asked, a.Status, a.MediaType)
				}
			}
		}
		for _, path := range []string{".yaml", ".json.xml", "/.json", "/detail.json.xml", "/" + alpha + ".xml/META", "/" + alpha + "/META.json/a", "/detail.atom"} {
			if a := h.ask("GET", e.path(path), ""); a.Status != 400 {
				t.Errorf("%s: %d", a.asked, a.Status)
			}
		}
	})
}

// TestOtherNames wants each version's word for metadata to be no word of the other, and no other way to write a path.
func TestOtherNames(t *testing.T) {
	h := newHost(t, newFake(image(alpha, "", nil)))
	for _, path := range []string{
		s1.images + "/" + alpha + "/metadata", s1.images + "/" + alpha + "/metadata/k", s2.images + "/" + alpha + "/meta", s2.images + "/" + alpha + "/meta/k",
		"/api/v1.1/servers", "/api/v1.1//images", "/api/v1.1/./images", "/api/v1.1%2Fimages", "/api%2Fv1.1/images", "/api/v1%2E1/images",
		"/api%2F", "/api/v1.1%2F", "/compute/v2.0//", "/compute/v2.0/extensions",
	} {
		h.ask("GET", path, "").isFault(400, "badRequest")
	}
}

// TestSerializations wants the order of section 5.2: the query (2.0 alone), the suffix, Accept.
func TestSerializations(t *testing.T) {
	const j, x = "application/json", "application/xml"
	for _, row := range []struct {
		path         string
		accept       []string
		want1, want2 string
	}{
		{"", nil, j, j},
		{"", []string{x}, x, x},
		{"", []string{"*/*"}, j, j},
		{"", []string{"text/html, application/xml, application/json"}, x, x},
		{"", []string{"application/json;q=0.1, application/xml;q=0.9"}, j, j}, // no q-values
		{"", []string{" application/xml ; charset=utf-8"}, x, x},
		{"", []string{"text/html", x}, x, x},
		{"", []string{"application/*, application/xml+x, Application/XML"}, j, j},
		{".xml", []string{j}, x, x},
		{".json", []string{x}, j, j},
		{"?format=xml", nil, j, x},
		{"?format=xml", []string{j}, j, x},
		{".xml?format=json", []string{x}, x, j},
		{".json?format=xml", nil, j, x},
		{"?format=json", []string{x}, x, j},
		{"?format=atom", []string{x}, x, x},
		{"?format=yaml", nil, j, j},
		{"?format=XML", nil, j, j},
		{"?format=json&format=xml", nil, j, x},
		{"/none?format=xml", nil, j, x}, // a fault
		{"/none.xml", []string{j}, x, x},
		{"/no/such/path.xml", nil, x, x},
	} {
		each(t, func(t *testing.T, e edition) {
			var headers []string
			for _, a := range row.accept {
				headers = append(headers, "Accept", a)
			}
			a := newHost(t, newFake()).ask("GET", e.path(row.path), "", headers...)
			if want := []string{row.want1, row.want2}[e.family]; a.MediaType != want+"; charset=UTF-8" {
				t.Errorf("%s with %q: %s, want %s", a.asked, row.accept, a.MediaType, want)
			}
		})
	}
}

// TestRoutes wants metrics to see the pattern, and nothing that a caller chose.
func TestRoutes(t *testing.T) {
	h := newHost(t, newFake())
	for path, want := range map[string]string{
		"/api": "GET /api", "/api.xml": "GET /api", "/api/v1.1": "GET /api/v1.1/", "/compute/": "GET /compute", "/compute/v2.0/": "GET /compute/v2.0/",
		s1.images + "/": "GET /api/v1.1/images", s1.images + "/detail.xml": "GET /api/v1.1/images/detail", s1.images + "/secret": "GET /api/v1.1/images/{id}",
		s1.images + "/secret/meta": "GET /api/v1.1/images/{id}/meta", s2.images + "/secret/metadata/key": "GET /compute/v2.0/images/{id}/metadata/{key}",
		s1.images + "/secret/other": "",
	} {
		if a := h.ask("GET", path, ""); a.route != want {
			t.Errorf("%s is counted as %q, want %q", path, a.route, want)
		}
	}
	if a := h.ask("SECRET", s1.images, ""); a.route != "" {
		t.Errorf("a caller's method is counted as %q", a.route)
	}
}
