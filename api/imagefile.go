package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// The bytes of an image, in and out. An upload is a number of PUTs, each of which says where its bytes go; what came
// stays, however a PUT ends, and HEAD says how much that is.

const octets = "application/octet-stream"

var uploadParams = params{{name: "finish", check: flag}}

// placed is where the bytes of a PUT go.
type placed struct {
	offset int64 // -1: from the beginning, in the place of what came before
	length int64 // of this piece; -1 when it is not said
	total  int64 // of the image; -1 when it is not said
}

func (s *Server) uploadImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	f, err := readQuery(r, uploadParams)
	if err != nil {
		return reply{}, err
	}
	at, err := placeOf(r)
	if err != nil {
		return reply{}, err
	}
	finish := f["finish"] == "true"
	if finish && at.offset < 0 && r.ContentLength == 0 { // nothing to add: it only says that all is there
		return s.finishImage(r.Context(), c, id)
	}
	if at.total >= 0 { // before anything is kept; of an error here AppendImage has more to say
		if up, err := s.daemon.ImageProgress(r.Context(), c, id); err == nil && up.Bytes >= 0 && at.total != up.Bytes {
			return reply{}, withProgress(invalid("Content-Range says that the image has %d bytes, and %d were announced", at.total, up.Bytes), up)
		}
	}
	up, err := s.daemon.AppendImage(r.Context(), c, id, at.offset, at.body(r.Body))
	if err != nil {
		return reply{}, withProgress(err, up)
	}
	if finish || up.Received == up.Bytes || up.Received == at.total {
		return s.finishImage(r.Context(), c, id)
	}
	return reply{header: uploadHeader(up), body: wire.ImageUpload{Received: up.Received, Bytes: up.Bytes}}, nil
}

func (s *Server) finishImage(ctx context.Context, c daemon.Caller, id string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	op, err := s.daemon.FinishImage(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	return accepted(id, op), nil
}

// withProgress tells with a refusal of the place or of the bytes how many are there, if that is known: so many were kept, and
// there the next ones go.
func withProgress(err error, up daemon.ImageUpload) error {
	e, ok := errors.AsType[*daemon.Error](err)
	if !ok || e.Code != daemon.Conflict && e.Code != daemon.Invalid || up == (daemon.ImageUpload{}) {
		return err
	}
	return &refusal{status: nativeEnvelope.status[e.Code], header: uploadHeader(up), cause: e}
}

func uploadHeader(up daemon.ImageUpload) http.Header {
	h := http.Header{wire.UploadOffsetHeader: {strconv.FormatInt(up.Received, 10)}}
	if up.Bytes >= 0 {
		h.Set(wire.UploadLengthHeader, strconv.FormatInt(up.Bytes, 10))
	}
	return h
}

var contentRange = regexp.MustCompile(`\Abytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\z`)

// placeOf reads where the bytes go: Upload-Offset, or Content-Range, or neither.
func placeOf(r *http.Request) (placed, error) {
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return placed{}, refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "a Content-Encoding is not supported")
	}
	if types := r.Header.Values("Content-Type"); len(types) > 1 || len(types) == 1 && types[0] != octets || len(types) == 0 && r.ContentLength != 0 {
		return placed{}, refuse(http.StatusUnsupportedMediaType, daemon.Invalid, "the body must be %s", octets)
	}
	at := placed{offset: -1, length: -1, total: -1}
	offsets, ranges := r.Header.Values(wire.UploadOffsetHeader), r.Header.Values("Content-Range")
	switch {
	case len(offsets)+len(ranges) > 1:
		return placed{}, invalid("Upload-Offset or Content-Range may be given, and once")
	case len(offsets) == 1:
		n, err := strconv.ParseInt(offsets[0], 10, 64)
		if err != nil || n < 0 || strconv.FormatInt(n, 10) != offsets[0] {
			return placed{}, invalid("Upload-Offset must be a whole number")
		}
		at.offset = n
	case len(ranges) == 1:
		m := contentRange.FindStringSubmatch(ranges[0])
		if m == nil {
			return placed{}, invalid("Content-Range must be of the form: bytes FIRST-LAST/TOTAL, or * for the total")
		}
		at.offset, _ = strconv.ParseInt(m[1], 10, 64) // at most 18 digits
		last, _ := strconv.ParseInt(m[2], 10, 64)
		at.length = last - at.offset + 1
		if m[3] != "*" {
			at.total, _ = strconv.ParseInt(m[3], 10, 64)
		}
		if at.length < 1 || at.total >= 0 && last >= at.total {
			return placed{}, invalid("Content-Range must have FIRST not above LAST, and LAST below TOTAL")
		}
		if r.ContentLength >= 0 && r.ContentLength != at.length {
			return placed{}, invalid("Content-Range has %d bytes, and the body %d", at.length, r.ContentLength)
		}
	}
	return at, nil
}

// body is a request's body that is held to the length of this piece, if that is said.
func (at placed) body(r io.Reader) io.Reader {
	if at.length < 0 {
		return r
	}
	return &ranged{r: r, length: at.length, left: at.length}
}

// ranged is a body that must be as long as its Content-Range: a chunked one does not say before how long it is. It ends with an
// error when it is not, and gives no more bytes than the range has.
type ranged struct {
	r            io.Reader
	length, left int64
}

func (b *ranged) Read(p []byte) (int, error) {
	if b.left == 0 { // one more tells too much from just enough
		n, err := b.r.Read(make([]byte, 1))
		if n > 0 {
			return 0, invalid("Content-Range has %d bytes, and the body more", b.length)
		}
		return 0, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); err == io.EOF && b.left > 0 {
		err = invalid("Content-Range has %d bytes, and the body %d", b.length, b.length-b.left)
	}
	return n, err
}

// exportImage sends the bytes of an image, or a part of them. HEAD of an image whose bytes are awaited says how many came.
func (s *Server) exportImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	if r.Method == http.MethodHead {
		img, err := s.daemon.Image(r.Context(), c, id)
		if err != nil {
			return reply{}, err
		}
		if img.State == daemon.ImagePending {
			up, err := s.daemon.ImageProgress(r.Context(), c, id)
			if err != nil {
				return reply{}, err
			}
			return reply{header: uploadHeader(up)}, nil
		}
	}
	file, img, err := s.daemon.OpenImage(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return reply{pass: func(w http.ResponseWriter, r *http.Request) {
		defer file.Close()
		h := w.Header()
		h.Set("Content-Type", octets)
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": fileName(img)}))
		if sum, err := hex.DecodeString(strings.TrimPrefix(img.Digest, "sha256:")); err == nil && len(sum) > 0 {
			h.Set("Etag", strconv.Quote(img.Digest)) // the bytes of a digest never change, so that it is a strong one
			h.Set(wire.ReprDigestHeader, "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
		}
		out, done := s.patient(&rangeRefuser{ResponseWriter: w, server: s, request: r})
		defer done()
		http.ServeContent(out, r, "", time.Time{}, file)
	}}, nil
}

// fileName is what a browser may call the image. The name is somebody's text: of a path only the last part counts.
func fileName(img daemon.Image) string {
	name := strings.Trim(path.Base("/"+strings.ReplaceAll(img.Name, `\`, "/")), "/. ")
	if name == "" {
		name = img.ID
	}
	return name + "." + img.Format
}

// rangeRefuser puts the native dialect's refusal in the place of net/http's text for a range that is not there.
type rangeRefuser struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	refused bool
}

func (w *rangeRefuser) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	for _, name := range []string{"Content-Disposition", wire.ReprDigestHeader} { // of what is not sent
		w.Header().Del(name)
	}
	w.server.fail(w.ResponseWriter, w.request, refuse(status, daemon.Invalid, "the image has no such range of bytes"))
}

func (w *rangeRefuser) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *rangeRefuser) Unwrap() http.ResponseWriter { return w.ResponseWriter }
