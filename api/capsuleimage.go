package api

import (
	"net/http"

	"github.com/capsuled/capsuled/daemon"
)

// The image calls of the capsule dialect (contract section 7). vmId is spelled as the contract has it: here, unlike in
// the calls about capsules, with a capital letter.

var (
	imageID     = matching(`[A-Za-z0-9._-]{1,128}`, "1 to 128 letters, digits, dots, dashes or underscores")
	imageName   = line(1, daemon.MaxImageName)
	shareParams = params{
		{name: "vmId", required: true, check: canonicalUUID},
		{name: "imageName", required: true, check: imageName},
		{name: "imageDescription", required: true, check: text(daemon.MaxImageDescription)},
		{name: "public", required: true, check: flag},
	}
	describeParams = params{
		{name: "imageId", required: true, check: imageID},
		{name: "imageName", required: true, check: imageName},
		{name: "imageDescription", required: true, check: text(daemon.MaxImageDescription)},
		{name: "public", required: true, check: flag},
	}
	imageIDParams   = params{{name: "imageId", required: true, check: imageID}}
	imageNameParams = params{{name: "imageName", required: true, check: imageName}}
)

// everyState are the states of a list that leaves none out.
var everyState = []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageDeletePending, daemon.ImageDeleted, daemon.ImageError}

func (s *Server) shareImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, shareParams)
	if err != nil {
		return reply{}, err
	}
	img, op, err := s.daemon.ShareCapsule(r.Context(), c, daemon.NewShare{Capsule: f["vmId"], Name: f["imageName"],
		Description: f["imageDescription"], Public: *f.flag("public")})
	if err != nil {
		return reply{}, err
	}
	return reply{body: imageInfo(img), operation: op.ID}, nil
}

// describeImage names, describes and publishes an image. Public false is what an image is that is private, and also one
// that is seen by those who know its id: of these it changes nothing.
func (s *Server) describeImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, describeParams)
	if err != nil {
		return reply{}, err
	}
	before, err := s.daemon.Image(r.Context(), c, f["imageId"])
	if err != nil {
		return reply{}, err
	}
	change := daemon.ImageChange{Name: f.text("imageName"), Description: f.text("imageDescription")}
	if public := f["public"] == "true"; public != (before.Visibility == daemon.Public) {
		visibility := daemon.Private
		if public {
			visibility = daemon.Public
		}
		change.Visibility = &visibility
	}
	img, err := s.daemon.SetImage(r.Context(), c, f["imageId"], change)
	if err != nil {
		return reply{}, err
	}
	return reply{body: imageInfo(img)}, nil
}

func (s *Server) activateImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, imageIDParams)
	if err != nil {
		return reply{}, err
	}
	img, err := s.daemon.ActivateImage(r.Context(), c, f["imageId"])
	if err != nil {
		return reply{}, err
	}
	return reply{body: imageInfo(img)}, nil
}

func (s *Server) checkImageName(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, imageNameParams)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.daemon.ImageNameFree(r.Context(), c, f["imageName"])
}

func (s *Server) listAllImages(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return s.imageInfos(r, c, daemon.ImageQuery{States: everyState})
}

func (s *Server) listActiveImages(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return s.imageInfos(r, c, daemon.ImageQuery{States: []daemon.ImageState{daemon.ImageActive}})
}

// listMyImages leaves out what is deleted or about to be, and shows what failed.
func (s *Server) listMyImages(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	return s.imageInfos(r, c, daemon.ImageQuery{Own: true,
		States: []daemon.ImageState{daemon.ImagePending, daemon.ImageActive, daemon.ImageError}})
}

func (s *Server) imageInfos(r *http.Request, c daemon.Caller, q daemon.ImageQuery) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.FindImages(r.Context(), c, q)
	if err != nil {
		return reply{}, err
	}
	return reply{text: imageInfos(found.Images), mediaType: jsonType}, nil
}

func (s *Server) getImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, imageIDParams)
	if err != nil {
		return reply{}, err
	}
	img, err := s.daemon.Image(r.Context(), c, f["imageId"])
	if err != nil {
		return reply{}, err
	}
	return reply{body: imageInfo(img)}, nil
}

func (s *Server) requestImageDelete(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, imageIDParams)
	if err != nil {
		return reply{}, err
	}
	_, err = s.daemon.RequestImageDelete(r.Context(), c, f["imageId"])
	return reply{}, err
}

func (s *Server) purgeImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, imageIDParams)
	if err != nil {
		return reply{}, err
	}
	op, err := s.daemon.PurgeImage(r.Context(), c, f["imageId"])
	return reply{operation: op.ID}, err
}
