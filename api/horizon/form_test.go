package horizon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/dialect/dialecttest"
	"github.com/capsuled/capsuled/api/horizon"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

const kind = "multipart/form-data; boundary=BOUNDARY"

// form writes fields (name, value, ...); "data" is the file.
func form(fields ...string) string {
	var out bytes.Buffer
	m := multipart.NewWriter(&out)
	_ = m.SetBoundary("BOUNDARY")
	for n := 0; n+1 < len(fields); n += 2 {
		var part io.Writer
		if fields[n] == "data" {
			part, _ = m.CreateFormFile("data", "f.img")
		} else {
			part, _ = m.CreateFormField(fields[n])
		}
		_, _ = io.WriteString(part, fields[n+1])
	}
	m.Close()
	return out.String()
}

func (w *world) post(body string) dialecttest.Answer {
	w.T.Helper()
	return w.Ask("POST", "/api/glance/images/", body, "Content-Type", kind)
}

func TestForm(t *testing.T) {
	for name, body := range map[string]string{
		"fields": form("name", "n", "min_disk", "3", "protected", "true", "visibility", "shared", "hw_disk_bus", "virtio", "source_type", "file-legacy",
			"disk_format", "raw", "import_data", "false", "data", "the bytes"),
		"JSON": form("name", "ignored", "$$originalJSON", `{"name":"n","min_disk":3,"protected":true,"visibility":"shared","hw_disk_bus":"virtio","data":{}}`,
			"data", "the bytes"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.post(body)
			expect(t, a, 201, `"active"`)
			got, data, _ := w.daemon.Peek(dialecttest.Decode[struct{ ID string }](t, a).ID)
			if got.Name != "n" || got.MinDiskGB != 3 || !got.Protected || got.Visibility != daemon.Shared || got.Metadata["hw_disk_bus"] != "virtio" || len(got.Metadata) != 1 ||
				data != "the bytes" {
				t.Errorf("%+v with %q", got, data)
			}
			if a.Header.Get("Location") != "/api/glance/images/n" || a.Header.Get("X-Operation") == "" || w.Patient != 1 {
				t.Errorf("%v, and %d", a.Header, w.Patient)
			}
		})
	}
}

func TestBadForms(t *testing.T) {
	whole := form("name", "n", "data", "the bytes")
	var wide strings.Builder
	for n := range 3000 {
		fmt.Fprintf(&wide, "--BOUNDARY\r\nContent-Disposition: form-data; name=\"f%d\"\r\n\r\n\r\n", n)
	}
	for name, row := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"no file":             {form("name", "n"), 400, "no file"},
		"nothing":             {"", 400, "no file"},
		"no form":             {`{"name":"n"}`, 400, "no file"},
		"a field after":       {form("name", "n", "data", "x", "min_disk", "1"), 400, "after its file"},
		"a file after":        {form("data", "x", "data", "y"), 400, "after its file"},
		"twice":               {form("name", "n", "name", "m", "data", "x"), 400, "more than once"},
		"JSON twice":          {form("$$originalJSON", "{}", "$$originalJSON", "{}", "data", "x"), 400, "more than once"},
		"bad JSON":            {form("$$originalJSON", "{", "data", "x"), 400, "malformed JSON"},
		"names in JSON twice": {form("$$originalJSON", `{"name":"a","name":"b"}`, "data", "x"), 400, "more than once"},
		"no name":             {form("", "n", "data", "x"), 400, "without a name"},
		"bad field":           {form("min_disk", "x", "data", "y"), 400, "min_disk"},
		"visibility":          {form("visibility", "x", "data", "y"), 400, "invalid visibility option: x"},
		"source":              {form("source_type", "url", "image_url", "https://x.example", "data", "y"), 400, "file-legacy"},
		"not UTF-8":           {form("name", "\xff", "data", "y"), 400, "UTF-8"},
		"long field":          {form("name", strings.Repeat("n", 120000), "data", "y"), 413, "exceed"},
		"long fields":         {form("a", strings.Repeat("n", 60000), "b", strings.Repeat("n", 60000), "data", "y"), 413, "exceed"},
		"long preamble":       {strings.Repeat("preamble\r\n", 30000) + whole, 413, "exceed"},
		"long headers":        {"--BOUNDARY\r\nX: " + strings.Repeat("h", 300000) + "\r\n\r\n", 413, "exceed"},
		"many fields":         {wide.String() + whole, 413, "exceed"},
		"cut in a field":      {whole[:40], 400, ""},
		"cut in the file":     {whole[:strings.Index(whole, "the bytes")+3], 400, "too early"},
		"cut after the file":  {whole[:strings.Index(whole, "the bytes")+len("the bytes\r\n--BOUND")], 400, "too early"},
		"another's public":    {form("visibility", "public", "data", "x"), 403, ""},
		"many items":          {form("$$originalJSON", many(129), "data", "x"), 413, "exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			expect(t, w.post(row.body), row.status, row.want)
			if left := w.daemon.Living(); len(left) != 0 {
				t.Errorf("%v are left behind", left)
			}
		})
	}
	w := newWorld(t)
	for _, kind := range []string{"multipart/form-data", "multipart/form-data; boundary=" + strings.Repeat("b", 71), `multipart/form-data; boundary=""`} {
		expect(t, w.Ask("POST", "/api/glance/images/", whole, "Content-Type", kind), 400, "boundary")
	}
	expect(t, w.Ask("PUT", "/api/glance/images/", whole, "Content-Type", kind, "X-Requested-With", "XMLHttpRequest"), 400, "malformed JSON")
}

// TestFormGivesUp leaves nothing of an image whose bytes the daemon does not take, also when the caller is gone by then.
func TestFormGivesUp(t *testing.T) {
	for _, verb := range []string{"AppendImage", "FinishImage"} {
		w := newWorld(t)
		w.daemon.Fail(verb, &daemon.Error{Code: daemon.Exhausted, Message: "no room"})
		expect(t, w.post(form("name", "n", "protected", "true", "data", "x")), 413, "no room")
		if left := w.daemon.Living(); len(left) != 0 {
			t.Errorf("%s: %v are left behind", verb, left)
		}
	}
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	start := form("name", "n", "protected", "true", "data", "x")
	r := httptest.NewRequestWithContext(ctx, "POST", "/api/glance/images", io.MultiReader(strings.NewReader(start[:len(start)-5]), &broken{cancel}))
	r.Header.Set("Content-Type", kind)
	r.Header.Set("X-Auth-Token", "alice")
	if a := w.Do(r); a.Status != 400 || len(w.daemon.Living()) != 0 {
		t.Errorf("%d, and %v are left behind", a.Status, w.daemon.Living())
	}
}

// broken is a connection that is cut.
type broken struct{ cancel func() }

func (b *broken) Read([]byte) (int, error) {
	b.cancel()
	return 0, errors.New("connection reset by peer")
}

// sink takes bytes and keeps none.
type sink struct {
	*daemontest.Images
	most uint64
	got  int64
}

func (s *sink) AppendImage(_ context.Context, _ daemon.Caller, _ string, _ int64, r io.Reader) (daemon.ImageUpload, error) {
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Read(buf)
		s.got += int64(n)
		if s.got%(16<<20) < int64(n) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			s.most = max(s.most, m.HeapAlloc)
		}
		if err == io.EOF {
			return daemon.ImageUpload{Received: s.got}, nil
		}
		if err != nil {
			return daemon.ImageUpload{}, err
		}
	}
}

// TestFormStreams sends 96 MiB and holds little of it at any time.
func TestFormStreams(t *testing.T) {
	const size = 96 << 20
	s := &sink{Images: daemontest.New(t)}
	h := dialecttest.Host{T: t, Family: horizon.New(s)}
	head, tail, _ := strings.Cut(form("name", "n", "data", "|"), "|")
	r := httptest.NewRequest("POST", "/api/glance/images/", io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, size), strings.NewReader(tail)))
	r.Header.Set("Content-Type", kind)
	r.Header.Set("X-Auth-Token", "alice")
	if a := h.Do(r); a.Status != 201 || s.got != size || s.most > 32<<20 {
		t.Errorf("%d %s: %d bytes, at most %d in memory", a.Status, a.Body, s.got, s.most)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
