package nova

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// witness notes what is asked of it; there are no images.
type witness struct {
	t     *testing.T
	id    string
	set   *daemon.ImageChange
	query *daemon.ImageQuery
}

func (w *witness) FindImages(_ context.Context, _ daemon.Caller, q daemon.ImageQuery) (daemon.ImagePage, error) {
	w.query = &q
	return daemon.ImagePage{}, nil
}

func (w *witness) Image(_ context.Context, _ daemon.Caller, id string) (daemon.Image, error) {
	w.id = id
	return daemon.Image{ID: id, State: daemon.ImageActive}, nil
}

func (w *witness) SetImage(_ context.Context, _ daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error) {
	w.id, w.set = id, &ch
	return daemon.Image{ID: id, Metadata: ch.SetMetadata}, nil
}

func (w *witness) RequestActiveImageDelete(_ context.Context, _ daemon.Caller, id string) (daemon.Image, error) {
	w.id = id
	return daemon.Image{}, nil
}

// FuzzBody: whatever a body is, it is refused, or it asks for what may be asked for and for what it says.
func FuzzBody(f *testing.F) {
	for _, body := range []string{`{"metadata":{"a":"b"}}`, `{"meta":{"key":"b"}}`, `{"metadata":{}}`, `{"metadata":{"a":1}}`, `{"x":1,"metadata":{"\u0061":"\ud83d\ude00"}}`, `[]`, ``} {
		f.Add(body, "application/json")
	}
	f.Fuzz(func(t *testing.T, body, contentType string) {
		for _, path := range []string{"/v2.1/images/", "/v2/images/"} {
			for _, method := range []string{"POST", "PUT", "PUT key"} {
				w := &witness{t: t}
				method, item := strings.CutSuffix(method, " key")
				target := path + "00000000-0000-4000-8000-000000000001/metadata"
				if item {
					target += "/key"
				}
				r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
				r.Header["Content-Type"] = []string{contentType}
				fam := New(w)
				req := &dialect.Request{Request: r, Caller: daemon.Caller{GUID: "g"}}
				p, err := fam.Serve(req)
				if err != nil {
					checkFault(t, fam, req, err)
					continue
				}
				var sent map[string]json.RawMessage
				var items map[string]string
				member := "metadata"
				if item {
					member = "meta"
				}
				if json.Unmarshal([]byte(body), &sent) != nil || json.Unmarshal(sent[member], &items) != nil || len(items) != len(w.set.SetMetadata) {
					t.Fatalf("%q asks for %+v", body, w.set)
				}
				for k, v := range w.set.SetMetadata {
					if items[k] != v || k == "" || len(k) > 255 || strings.Trim(k, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:. ") != "" || utf8.RuneCountInString(v) > 255 {
						t.Errorf("%q sets %q to %q", body, k, v)
					}
				}
				if !json.Valid(p.Body) {
					t.Errorf("answered %s", p.Body)
				}
			}
		}
	})
}

// checkFault fails when an error has no fault, or one of the server's own.
func checkFault(t *testing.T, fam *Family, req *dialect.Request, err error) {
	t.Helper()
	no, ok := err.(*dialect.Refusal)
	if !ok {
		t.Fatalf("refused with %T: %v", err, err)
	}
	p := fam.Fault(req, no)
	if p.Status < 400 || p.Status >= 500 || !json.Valid(p.Body) || p.Status != http.StatusRequestEntityTooLarge && strings.Contains(string(p.Body), "computeFault") && p.Status != http.StatusNotAcceptable {
		t.Errorf("%d %s", p.Status, p.Body)
	}
}

// FuzzPath: whatever a path is, no verb is asked for what is no UUID, and the answer is not the server's fault.
func FuzzPath(f *testing.F) {
	const id = "00000000-0000-4000-8000-000000000001"
	for _, path := range []string{"", "/", "/images", "/images/", "/images/detail", "/images/" + id, "/g/images/" + id + "/metadata", "/images/" + id + "/metadata/a%2fb", "//", "/%2f/images", "/images.json", "/images/%00"} {
		f.Add("/v2.1"+path, "GET", "2.1")
		f.Add("/v2"+path, "DELETE", "x")
		f.Add("/compute/v2.1"+path, "PATCH", "latest")
	}
	f.Fuzz(func(t *testing.T, path, method, version string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" {
			return
		}
		w := &witness{t: t}
		fam := New(w)
		if !fam.Speaks(u.Path) {
			return
		}
		r := (&http.Request{Method: method, URL: u, Header: http.Header{"Openstack-Api-Version": {"compute " + version}}, Body: http.NoBody}).WithContext(t.Context())
		req := &dialect.Request{Request: r, Caller: daemon.Caller{GUID: "g"}, Base: "http://h"}
		p, err := fam.Serve(req)
		if w.id != "" && (len(w.id) != 36 || strings.Trim(w.id, "0123456789abcdefABCDEF-") != "") {
			t.Errorf("%q asks for image %q", path, w.id)
		}
		switch {
		case err != nil:
			checkFault(t, fam, req, err)
		case p.Status != http.StatusNoContent && !json.Valid(p.Body):
			t.Errorf("%q is answered %s", path, p.Body)
		}
	})
}

// FuzzQuery: whatever a query string is, it is refused or asks for one page at most.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"", "limit=1&marker=x", "name=a&status=ACTIVE&server=http://h/x&type=ALL&minRam=1&minDisk=2", "changes-since=2011-01-24T17:08:09.5%2B02:00", "property-a=b&property-=", "limit=0", "%"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		for _, v := range []*variant{v21, v2} {
			l, given, err := v.parseQuery(raw)
			if err != nil {
				if _, ok := err.(*dialect.Refusal); !ok {
					t.Errorf("%T: %v", err, err)
				}
				continue
			}
			if l.Limit < 1 || l.Limit > longestPage {
				t.Errorf("%q has limit %d", raw, l.Limit)
			}
			again, _, err := v.parseQuery(next(given, "m"))
			if err != nil || again.Marker != "m" || again.Limit != l.Limit || again.Nothing != l.Nothing || len(again.Metadata) != len(l.Metadata) {
				t.Errorf("%q and its next page differ: %+v, %+v, %v", raw, l, again, err)
			}
		}
	})
}

// FuzzTime: what is taken as a time is one, and in RFC 3339 the same as package time's.
func FuzzTime(f *testing.F) {
	for _, s := range []string{"2011-01-24T17:08Z", "2011-01-24", "2011-01-24T17:08:09.5+02:00", "2011-01-24 17:08:09,5-0230"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTime(s)
		want, wantErr := time.Parse(time.RFC3339, s)
		if wantErr == nil && len(s) <= 35 && strings.Contains(s, "T") && !strings.Contains(s, ",") && (err != nil || !got.Equal(want)) && len(s) >= 20 {
			t.Errorf("%q: %v %v, want %v", s, got, err, want)
		}
	})
}
