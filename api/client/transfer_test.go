package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api/client"
)

// shelf is a daemon that keeps one image, strict about offsets, and cuts connections when it was told to.
type shelf struct {
	bytes []byte
	cuts  []int // how many bytes the next transfers may have; 0 means all
	lost  bool  // the answer to the end of an upload is lost once
	done  bool
	asked []string
}

func (s *shelf) cut() int {
	if len(s.cuts) == 0 {
		return 1 << 30
	}
	n := s.cuts[0]
	s.cuts = s.cuts[1:]
	return n
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Upload-Offset")+r.Header.Get("Range")))
	sum := sha256.Sum256(s.bytes)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	switch {
	case r.URL.Path == "/v1/operations":
		fmt.Fprintf(w, `{"operations":[{"id":"op-1","target":%q}]}`, r.URL.Query().Get("target"))
	case r.URL.Path == "/v1/images/i-1":
		fmt.Fprintf(w, `{"id":"i-1","state":"ACTIVE","digest":%q,"file_bytes":%d}`, digest, len(s.bytes))
	case r.Method == http.MethodHead:
		if !s.done {
			w.Header().Set("Upload-Offset", strconv.Itoa(len(s.bytes)))
		}
	case r.Method == http.MethodPut && (s.done || r.Header.Get("Upload-Offset") != strconv.Itoa(len(s.bytes))):
		w.Header().Set("X-Error-Code", "conflict")
		w.WriteHeader(http.StatusConflict)
	case r.Method == http.MethodPut:
		most := s.cut()
		got, _ := io.ReadAll(io.LimitReader(r.Body, int64(most)))
		s.bytes = append(s.bytes, got...)
		if len(got) == most {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Query().Get("finish") != "true" {
			return
		}
		if s.done = true; s.lost {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"id":"i-1","operation":{"id":"op-1"}}`)
	default:
		w.Header().Set("Etag", strconv.Quote(digest))
		http.ServeContent(&cutter{w, s.cut()}, r, "", time.Time{}, bytes.NewReader(s.bytes))
	}
}

// cutter cuts a reply after so many bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

var content = strings.Repeat("0123456789", 2<<20) // more than two pieces

func TestUpload(t *testing.T) {
	for _, row := range []struct {
		name  string
		shelf shelf
		from  io.Reader
		size  int64
		asked int // calls in all
	}{
		{"a file", shelf{}, strings.NewReader(content), int64(len(content)), 1},
		{"a file of unknown size", shelf{}, strings.NewReader(content), -1, 1},
		{"a file that is cut twice", shelf{cuts: []int{1000, 5 << 20}}, strings.NewReader(content), int64(len(content)), 5},
		{"a stream", shelf{}, io.MultiReader(strings.NewReader(content)), -1, 3},
		{"a stream that is cut within its pieces", shelf{cuts: []int{1 << 30, 1000, 1000}}, io.MultiReader(strings.NewReader(content)), int64(len(content)), 7},
		{"a file whose end is not answered", shelf{lost: true}, strings.NewReader(content), int64(len(content)), 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			last := int64(0)
			accepted, err := serve(t, &row.shelf).Upload(t.Context(), "i-1", row.from, row.size, func(done, total int64) {
				if last = done; total != row.size {
					t.Errorf("of %d", total)
				}
			})
			if err != nil || accepted.ID != "i-1" || accepted.Operation.ID != "op-1" {
				t.Errorf("%+v %v", accepted, err)
			}
			if string(row.shelf.bytes) != content || last != int64(len(content)) || len(row.shelf.asked) != row.asked {
				t.Errorf("%d bytes, told of %d; calls %q", len(row.shelf.bytes), last, row.shelf.asked)
			}
		})
	}
}

// What never comes through is given up, and what is refused is not sent again.
func TestUploadEnds(t *testing.T) {
	away := scripted(drop)
	if _, err := serve(t, away).Upload(t.Context(), "i-1", strings.NewReader("abc"), 3, nil); err == nil || len(away.asked()) > 12 {
		t.Errorf("%v after %d calls", err, len(away.asked()))
	}
	full := scripted(answer(507, `{"code":"exhausted","message":"no room"}`))
	if _, err := serve(t, full).Upload(t.Context(), "i-1", strings.NewReader("abc"), 3, nil); !client.Is(err, client.Exhausted) || len(full.asked()) != 1 {
		t.Errorf("%v after %d calls", err, len(full.asked()))
	}
}

func TestExport(t *testing.T) {
	for _, row := range []struct {
		name  string
		have  string
		cuts  []int
		fault string
		asked int
	}{
		{"whole", "", nil, "", 2},
		{"cut twice", "", []int{1000, 5 << 20}, "", 4},
		{"the rest", content[:12345], nil, "", 2},
		{"nothing more", content, nil, "", 1},
		{"the rest of something else", "x" + content[:100], nil, "the digest", 2},
		{"more than there is", content + "x", nil, "the digest", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &shelf{bytes: []byte(content), cuts: row.cuts}
			var out strings.Builder
			out.WriteString(row.have)
			image, err := serve(t, s).Export(t.Context(), "i-1", strings.NewReader(row.have), &out, func(done, total int64) {
				if done > total || total != int64(len(content)) {
					t.Errorf("%d of %d", done, total)
				}
			})
			if (err == nil) != (row.fault == "") || err != nil && (!strings.Contains(err.Error(), row.fault) || !client.Is(err, client.Conflict)) {
				t.Error(err)
			}
			if err == nil && out.String() != content || image.ID != "i-1" || len(s.asked) != row.asked {
				t.Errorf("%d bytes of %+v; calls %q", out.Len(), image, s.asked)
			}
		})
	}
}
