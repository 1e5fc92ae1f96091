package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// epoch is when everything here was made.
var epoch = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// AddImage puts an image there as it is.
func (s *fakeDaemon) AddImage(image wire.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, &image)
}

func (s *fakeDaemon) listImages(w http.ResponseWriter, _ *http.Request) {
	list := wire.ImageList{Images: []wire.Image{}}
	for _, image := range s.images {
		list.Images = append(list.Images, *image)
	}
	reply(w, http.StatusOK, list)
}

func (s *fakeDaemon) addImage(w http.ResponseWriter, r *http.Request) {
	var n wire.NewImage
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if r.Header.Get("Content-Type") != "application/json" || decoder.Decode(&n) != nil {
		refuse(w, r, "invalid", "want a JSON image")
		return
	}
	if !filepath.IsAbs(n.Path) {
		refuse(w, r, "invalid", "path must be absolute")
		return
	}
	if slices.ContainsFunc(s.images, func(i *wire.Image) bool { return i.Name == n.Name }) {
		refuse(w, r, "conflict", "the name "+n.Name+" is taken")
		return
	}
	image := &wire.Image{ID: s.nextID("b"), Name: n.Name, Description: n.Description, State: "SHARE_PENDING", Public: n.Public,
		Owner: "root", LoginUser: n.LoginUser, LoginPassword: n.LoginPassword, CreatedAt: epoch, UpdatedAt: epoch}
	s.images = append(s.images, image)
	op := s.begin("image-add", image.ID, []string{"inspect", "copy", "commit"}, func(ok bool) {
		if !ok {
			s.dropImage(image.ID)
			return
		}
		image.State, image.Digest, image.Format = "ACTIVE", "sha256:00", "qcow2"
		image.FileBytes, image.VirtualBytes = 20<<20, 96<<20
	})
	locate(w, op)
	reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
}

func (s *fakeDaemon) image(id string) *wire.Image {
	i := slices.IndexFunc(s.images, func(i *wire.Image) bool { return i.ID == id })
	if i < 0 {
		return nil
	}
	return s.images[i]
}

func (s *fakeDaemon) dropImage(id string) {
	s.images = slices.DeleteFunc(s.images, func(i *wire.Image) bool { return i.ID == id })
}

func (s *fakeDaemon) showImage(w http.ResponseWriter, r *http.Request) {
	image := s.image(r.PathValue("id"))
	if image == nil {
		refuse(w, r, "not_found", "no image "+r.PathValue("id"))
		return
	}
	reply(w, http.StatusOK, *image)
}

func (s *fakeDaemon) deleteImage(w http.ResponseWriter, r *http.Request) {
	image := s.image(r.PathValue("id"))
	if image == nil {
		refuse(w, r, "not_found", "no image "+r.PathValue("id"))
		return
	}
	image.State = "DELETE_PENDING"
	op := s.begin("image-delete", image.ID, []string{"forget", "remove"}, func(bool) { s.dropImage(image.ID) })
	locate(w, op)
	reply(w, http.StatusAccepted, wire.Accepted{ID: image.ID, Operation: op.Operation})
}
