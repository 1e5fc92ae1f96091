package nova

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// hundred is a daemon with one page.
type hundred struct {
	witness
	page daemon.ImagePage
}

func (h *hundred) FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error) {
	return h.page, nil
}

func newHundred() *hundred {
	h := &hundred{}
	for i := range 100 {
		h.page.Images = append(h.page.Images, &daemon.Image{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Name: "an image of some name",
			State: daemon.ImageActive, CreatedAt: time.Unix(1e9, 0), UpdatedAt: time.Unix(1e9, 0), FileBytes: 1 << 30,
			Metadata: map[string]string{"architecture": "x86_64", "auto_disk_config": "True", "kernel_id": "nokernel", "ramdisk_id": "nokernel"}})
	}
	return h
}

// BenchmarkDetail is a page of a hundred, decoded and encoded; BenchmarkBare the same bytes from a bare handler. Both go
// through a connection, as a client has it.
func BenchmarkDetail(b *testing.B) {
	f := New(newHundred())
	over(b, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(detailPage(b, f, r)) })
}

func BenchmarkBare(b *testing.B) {
	f := New(newHundred())
	page := detailPage(b, f, httptest.NewRequest("GET", "/v2.1/images/detail?limit=100", nil))
	over(b, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(page) })
}

// BenchmarkServe is the family alone.
func BenchmarkServe(b *testing.B) {
	f := New(newHundred())
	r := httptest.NewRequest("GET", "/v2.1/images/detail?limit=100", nil)
	for b.Loop() {
		b.SetBytes(int64(len(detailPage(b, f, r))))
	}
}

func detailPage(b *testing.B, f *Family, r *http.Request) []byte {
	p, err := f.Serve(&dialect.Request{Request: r, ID: "r", Caller: daemon.Caller{GUID: "g"}, Base: "http://" + r.Host})
	if err != nil {
		b.Error(err)
	}
	return p.Body
}

func over(b *testing.B, handle http.HandlerFunc) {
	s := httptest.NewServer(handle)
	defer s.Close()
	buf := make([]byte, 256<<10)
	for b.Loop() {
		resp, err := http.Get(s.URL + "/v2.1/images/detail?limit=100")
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for err == nil {
			var m int
			m, err = resp.Body.Read(buf)
			n += m
		}
		b.SetBytes(int64(n))
		resp.Body.Close()
	}
}
