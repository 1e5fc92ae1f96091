package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// epoch is when everything here was made.
var epoch = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// routeImages is the part of the table about images.
func (s *fakeDaemon) routeImages() {
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /v1/images":                  s.listImages,
		"POST /v1/images":                 s.addImage,
		"POST /v1/images/gc":              s.collectImages,
		"GET /v1/images/{id}":             s.showImage,
		"PATCH /v1/images/{id}":           s.setImage,
		"DELETE /v1/images/{id}":          s.deleteImage,
		"POST /v1/images/{id}/verify":     s.verifyImage,
		"GET /v1/images/{id}/file":        s.exportImage,
		"PUT /v1/images/{id}/file":        s.uploadImage,
		"POST /v1/capsules/{id}/share":    s.shareCapsule,
		"POST /v1/operations/{id}/cancel": s.cancelOperation,
	} {
		s.mux.HandleFunc(pattern, h)
	}
}

// Cut has the next transfer of an image's bytes end after so many of them.
func (s *fakeDaemon) Cut(after int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = append(s.cuts, after)
}

// cut is how many bytes the next transfer may have.
func (s *fakeDaemon) cut() int {
	if len(s.cuts) == 0 {
		return 1 << 40
	}
	n := s.cuts[0]
	s.cuts = s.cuts[1:]
	return n
}

// AddImage puts an image there as it is.
func (s *fakeDaemon) AddImage(image wire.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, &image)
}

// allowed refuses a query with anything but these names.
func allowed(w http.ResponseWriter, r *http.Request, names ...string) bool {
	for name, values := range r.URL.Query() {
		if !slices.Contains(names, name) || len(values) != 1 {
			refuse(w, r, "invalid", "bad parameter "+name)
			return false
		}
	}
	return true
}

// document reads the JSON of a body, and nothing that it does not know.
func document(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if r.Header.Get("Content-Type") != "application/json" || decoder.Decode(into) != nil || r.URL.RawQuery != "" {
		refuse(w, r, "invalid", "want a JSON document")
		return false
	}
	return true
}

func (s *fakeDaemon) listImages(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, "name", "state", "owner", "visibility", "limit", "marker") {
		return
	}
	q := r.URL.Query()
	limit, err := strconv.Atoi(cmp.Or(q.Get("limit"), "1000"))
	if err != nil || limit < 1 || q.Get("state") != strings.ToUpper(q.Get("state")) && q.Get("state") != "any" {
		refuse(w, r, "invalid", "bad parameter")
		return
	}
	list := wire.ImageList{Images: []wire.Image{}}
	after := q.Get("marker") == ""
	for _, image := range s.images {
		state := q.Get("state") == "any" || q.Get("state") == image.State || q.Get("state") == "" && (image.State == "ACTIVE" || image.State == "SHARE_PENDING")
		switch {
		case !state || q.Has("name") && q.Get("name") != image.Name || q.Has("owner") && q.Get("owner") != image.Owner ||
			q.Has("visibility") && q.Get("visibility") != image.Visibility:
		case !after:
			after = image.ID == q.Get("marker")
		case len(list.Images) == limit:
			list.More = true
		default:
			list.Images = append(list.Images, *image)
		}
	}
	reply(w, http.StatusOK, list)
}

func (s *fakeDaemon) addImage(w http.ResponseWriter, r *http.Request) {
	var n wire.NewImage
	if !document(w, r, &n) {
		return
	}
	switch awaited := n.Path == "" && n.URL == ""; {
	case n.Path != "" && (!filepath.IsAbs(n.Path) || n.URL != "") || n.Bytes != nil && !awaited:
		refuse(w, r, "invalid", "want an absolute path, or a URL, or neither")
		return
	case slices.ContainsFunc(s.images, func(i *wire.Image) bool { return i.Name == n.Name }):
		refuse(w, r, "conflict", "the name "+n.Name+" is taken")
		return
	}
	if n.Public && n.Visibility != "" {
		refuse(w, r, "invalid", "public and visibility: one says it")
		return
	}
	image := s.newImage(n.Name, n.Description, n.Public || n.Visibility == "public")
	image.Visibility = cmp.Or(n.Visibility, image.Visibility)
	image.Protected, image.MinDiskGB, image.MinRAMMB, image.Metadata = n.Protected, n.MinDiskGB, n.MinRAMMB, n.Metadata
	image.LoginUser, image.LoginPassword = n.LoginUser, n.LoginPassword
	if n.Path == "" && n.URL == "" {
		if n.Bytes != nil {
			image.VirtualBytes = *n.Bytes // what is awaited, until it has come
		}
		reply(w, http.StatusCreated, *image)
		return
	}
	s.importing(w, image, []string{"inspect", "copy", "commit"})
}

func (s *fakeDaemon) newImage(name, description string, public bool) *wire.Image {
	image := &wire.Image{ID: s.nextID("b"), Name: name, Description: description, State: "SHARE_PENDING", Public: public, Visibility: "private",
		Owner: "root", CreatedAt: epoch, UpdatedAt: epoch}
	if public {
		image.Visibility = "public"
	}
	s.images = append(s.images, image)
	return image
}

// importing begins the operation that makes an image ACTIVE.
func (s *fakeDaemon) importing(w http.ResponseWriter, image *wire.Image, steps []string) {
	op := s.begin("image-add", image.ID, steps, func(ok bool) {
		if !ok {
			s.dropImage(image.ID)
			return
		}
		image.State, image.Digest, image.Format = "ACTIVE", digestOf(s.bytes[image.ID]), "qcow2"
		image.FileBytes, image.VirtualBytes = 20<<20, 96<<20
		if b, ok := s.bytes[image.ID]; ok {
			image.FileBytes = int64(len(b))
		}
	})
	locate(w, op)
	reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *fakeDaemon) dropImage(id string) {
	s.images = slices.DeleteFunc(s.images, func(i *wire.Image) bool { return i.ID == id })
}

// image is the one of the path, in one of the states; with none, in any. Without one the call is refused.
func (s *fakeDaemon) image(w http.ResponseWriter, r *http.Request, states ...string) *wire.Image {
	i := slices.IndexFunc(s.images, func(i *wire.Image) bool { return i.ID == r.PathValue("id") })
	switch {
	case i < 0:
		refuse(w, r, "not_found", "no image "+r.PathValue("id"))
	case len(states) > 0 && !slices.Contains(states, s.images[i].State):
		refuse(w, r, "conflict", "image "+s.images[i].ID+" is "+s.images[i].State)
	default:
		return s.images[i]
	}
	return nil
}

func (s *fakeDaemon) showImage(w http.ResponseWriter, r *http.Request) {
	if image := s.image(w, r); image != nil && allowed(w, r) {
		reply(w, http.StatusOK, *image)
	}
}

func (s *fakeDaemon) setImage(w http.ResponseWriter, r *http.Request) {
	var n wire.ImageChange
	image := s.image(w, r, "ACTIVE")
	if image == nil || !document(w, r, &n) {
		return
	}
	metadata := maps.Clone(image.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	for _, key := range n.RemoveMetadata {
		if _, ok := metadata[key]; !ok {
			refuse(w, r, "not_found", "the image has no property "+key)
			return
		}
		delete(metadata, key)
	}
	maps.Copy(metadata, n.Metadata)
	image.Metadata = metadata
	put(&image.Name, n.Name)
	put(&image.Description, n.Description)
	put(&image.Visibility, n.Visibility)
	put(&image.Protected, n.Protected)
	put(&image.MinDiskGB, n.MinDiskGB)
	put(&image.MinRAMMB, n.MinRAMMB)
	put(&image.LoginUser, n.LoginUser)
	put(&image.LoginPassword, n.LoginPassword)
	reply(w, http.StatusOK, *image)
}

func put[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *fakeDaemon) deleteImage(w http.ResponseWriter, r *http.Request) {
	image := s.image(w, r, "ACTIVE", "SHARE_PENDING", "ERROR")
	if image == nil || !allowed(w, r, "later") {
		return
	}
	if image.State == "ERROR" {
		image.State = "DELETED"
	} else {
		image.State = "DELETE_PENDING"
	}
	if r.URL.Query().Get("later") == "true" {
		reply(w, http.StatusOK, *image)
		return
	}
	op := s.begin("image-delete", image.ID, []string{"forget", "remove"}, func(bool) { s.dropImage(image.ID) })
	locate(w, op)
	reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
}

func (s *fakeDaemon) verifyImage(w http.ResponseWriter, r *http.Request) {
	if image := s.image(w, r, "ACTIVE"); image != nil {
		op := s.begin("image-verify", image.ID, []string{"digest"}, func(bool) {})
		locate(w, op)
		reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
	}
}

func (s *fakeDaemon) collectImages(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, "dry_run") {
		return
	}
	list := wire.ImageWasteList{DryRun: r.URL.Query().Get("dry_run") == "true", Waste: []wire.ImageWaste{}}
	for _, image := range slices.Clone(s.images) {
		if image.State != "DELETE_PENDING" {
			continue
		}
		list.Waste = append(list.Waste, wire.ImageWaste{ID: image.ID, Name: image.Name, Digest: image.Digest, Bytes: image.FileBytes})
		if !list.DryRun {
			s.dropImage(image.ID)
		}
	}
	reply(w, http.StatusOK, list)
}

func (s *fakeDaemon) shareCapsule(w http.ResponseWriter, r *http.Request) {
	var n wire.NewShare
	c := s.find(r.PathValue("id"))
	if !document(w, r, &n) {
		return
	}
	if c == nil || c.State != "SHUTDOWN" {
		refuse(w, r, "conflict", "the capsule must be SHUTDOWN")
		return
	}
	image := s.newImage(n.Name, n.Description, n.Public)
	image.SourceCapsule = c.VMID
	op := s.begin("share", c.VMID, []string{"flatten", "clean", "commit"}, func(bool) { image.State = "ACTIVE" })
	locate(w, op)
	reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
}

func (s *fakeDaemon) cancelOperation(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(s.ops, func(op *fakeOperation) bool { return op.ID == r.PathValue("id") })
	switch {
	case i < 0:
		refuse(w, r, "not_found", "no operation "+r.PathValue("id"))
	case s.ops[i].State != "running":
		refuse(w, r, "conflict", "the operation has ended")
	default:
		op := s.ops[i]
		op.State, op.Code, op.Cause, op.Ended = "failed", "conflict", "cancelled", &epoch
		op.end(false)
		reply(w, http.StatusAccepted, op.Operation)
	}
}

// uploadImage appends as the daemon does, and is as strict about the offset.
func (s *fakeDaemon) uploadImage(w http.ResponseWriter, r *http.Request) {
	image := s.image(w, r, "SHARE_PENDING")
	if image == nil || !allowed(w, r, "finish") {
		return
	}
	have := s.bytes[image.ID]
	if r.Header.Get("Content-Type") != "application/octet-stream" || r.Header.Get(wire.UploadOffsetHeader) != strconv.Itoa(len(have)) {
		refuse(w, r, "conflict", "the wrong offset, or the wrong kind of body")
		return
	}
	most := s.cut()
	got, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	cut := len(got) > most
	got = got[:min(len(got), most)]
	s.bytes[image.ID] = append(have, got...)
	if cut || err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Query().Get("finish") != "true" {
		reply(w, http.StatusOK, wire.ImageUpload{Received: int64(len(have) + len(got)), Bytes: -1})
		return
	}
	if n := image.VirtualBytes; n != 0 && n != int64(len(have)+len(got)) {
		refuse(w, r, "conflict", "fewer bytes than were announced")
		return
	}
	s.importing(w, image, []string{"inspect", "commit"})
}

func (s *fakeDaemon) exportImage(w http.ResponseWriter, r *http.Request) {
	image := s.image(w, r)
	switch {
	case image == nil || !allowed(w, r):
	case image.State == "SHARE_PENDING" && r.Method == http.MethodHead:
		w.Header().Set(wire.UploadOffsetHeader, strconv.Itoa(len(s.bytes[image.ID])))
	case image.State != "ACTIVE":
		refuse(w, r, "conflict", "image "+image.ID+" is "+image.State)
	default:
		w.Header().Set("Etag", strconv.Quote(image.Digest))
		http.ServeContent(&cutWriter{w, s.cut()}, r, "", time.Time{}, bytes.NewReader(s.bytes[image.ID]))
	}
}

// cutWriter ends the connection after so many bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}
