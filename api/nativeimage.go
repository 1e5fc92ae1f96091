package api

import (
	"net/http"
	"path/filepath"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// The native calls about image records. What becomes of their bytes is in imagefile.go.

const (
	maxURL    = 2048
	maxImages = 1000 // of one list with a limit
)

var (
	visibilities = []string{string(daemon.Private), string(daemon.Public), string(daemon.Shared), string(daemon.Community)}
	imagesParams = params{
		{name: "name", check: line(0, daemon.MaxImageName)},
		{name: "state", check: oneOf(append(each(everyState, func(st daemon.ImageState) string { return string(st) }), anyState)...)},
		{name: "owner", check: line(1, 64)},
		{name: "visibility", check: oneOf(visibilities...)},
		{name: "limit", check: number(1, maxImages)},
		{name: "marker", check: imageID},
	}
	deleteParams = params{{name: "later", check: flag}}
	gcParams     = params{{name: "dry_run", check: flag}}
	digest       = matching(`sha256:[0-9a-f]{64}`, "sha256: and 64 digits in lower-case hexadecimal")
)

// anyState in a query stands for all states, tombstones among them.
const anyState = "any"

func (s *Server) listImages(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, imagesParams)
	if err != nil {
		return reply{}, err
	}
	q := daemon.ImageQuery{Name: f.text("name"), Owner: f["owner"], Visibility: daemon.Visibility(f["visibility"]),
		Limit: f.number("limit"), Marker: f["marker"]}
	switch f["state"] {
	case "":
	case anyState:
		q.States = everyState
	default:
		q.States = []daemon.ImageState{daemon.ImageState(f["state"])}
	}
	found, err := s.daemon.FindImages(r.Context(), c, q)
	if err != nil {
		return reply{}, err
	}
	return reply{text: imageList(found), mediaType: jsonType}, nil
}

func (s *Server) addImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	want, err := readNewImage(w, r)
	if err != nil {
		return reply{}, err
	}
	img, op, err := s.daemon.AddImage(r.Context(), c, want)
	if err != nil {
		return reply{}, err
	}
	p := reply{status: http.StatusCreated, body: image(img)} // its bytes are awaited
	if op.ID != "" {
		p = accepted(img.ID, op)
	}
	p.location = "/v1/images/" + img.ID
	return p, nil
}

// imageChecks are the limits of the contract's columns. A path is only held to be one here: whether this caller may
// name it, and what lies there, the daemon and the image store decide; and so it is with a URL.
var imageChecks = map[string]check{
	"name":           imageName,
	"description":    text(daemon.MaxImageDescription),
	"visibility":     oneOf(visibilities...),
	"format":         oneOf("raw", "qcow2"),
	"digest":         digest,
	"path":           line(1, daemon.MaxImagePath),
	"url":            line(1, maxURL),
	"login_user":     line(0, daemon.MaxLoginUser),
	"login_password": line(0, daemon.MaxImagePassword),
}

// checked is one text of a document, which its check brings into its normal form.
type checked struct {
	name  string
	value *string // nil for one that is absent
}

func checkTexts(texts []checked) error {
	for _, t := range texts {
		if t.value == nil {
			continue
		}
		v, err := imageChecks[t.name](*t.value)
		if err != nil {
			return invalid("%s %v", t.name, err)
		}
		*t.value = v
	}
	return nil
}

// given is nil for the text that stands for none.
func given(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}

func readNewImage(w http.ResponseWriter, r *http.Request) (daemon.NewImage, error) {
	var n wire.NewImage
	if err := readDocument(w, r, &n); err != nil {
		return daemon.NewImage{}, err
	}
	if err := checkTexts([]checked{{"name", &n.Name}, {"description", &n.Description}, {"visibility", given(&n.Visibility)},
		{"format", given(&n.Format)}, {"digest", given(&n.Digest)}, {"path", given(&n.Path)}, {"url", given(&n.URL)},
		{"login_user", &n.LoginUser}, {"login_password", &n.LoginPassword}}); err != nil {
		return daemon.NewImage{}, err
	}
	if err := checkSizes(&n.MinDiskGB, &n.MinRAMMB); err != nil {
		return daemon.NewImage{}, err
	}
	awaited := n.Path == "" && n.URL == ""
	switch {
	case n.Path != "" && n.URL != "":
		return daemon.NewImage{}, invalid("path and url exclude each other")
	case n.Path != "" && (!filepath.IsAbs(n.Path) || filepath.Clean(n.Path) != n.Path):
		return daemon.NewImage{}, invalid("path must be absolute, without . or .. or repeated slashes")
	case n.Bytes != nil && !awaited:
		return daemon.NewImage{}, invalid("bytes is for an image that is sent, without path and url")
	case n.Bytes != nil && *n.Bytes < 1:
		return daemon.NewImage{}, invalid("bytes must be at least 1; leave it out when it is not known")
	case n.Public && n.Visibility != "" && n.Visibility != string(daemon.Public):
		return daemon.NewImage{}, invalid("public and visibility %s contradict each other", n.Visibility)
	}
	want := daemon.NewImage{Name: n.Name, Description: n.Description, Visibility: daemon.Visibility(n.Visibility), Protected: n.Protected,
		MinDiskGB: n.MinDiskGB, MinRAMMB: n.MinRAMMB, Format: n.Format, Digest: n.Digest, Bytes: -1, Metadata: n.Metadata,
		LoginUser: n.LoginUser, LoginPassword: n.LoginPassword, Path: n.Path, URL: n.URL}
	if n.Bytes != nil {
		want.Bytes = *n.Bytes
	}
	switch {
	case n.Public:
		want.Visibility = daemon.Public
	case n.Visibility == "":
		want.Visibility = daemon.Private
	}
	return want, nil
}

func checkSizes(minDisk, minRAM *int) error {
	switch {
	case minDisk != nil && (*minDisk < 0 || *minDisk > daemon.MaxImageMinDisk):
		return invalid("min_disk_gb must be a whole number from 0 to %d", daemon.MaxImageMinDisk)
	case minRAM != nil && (*minRAM < 0 || *minRAM > daemon.MaxImageMinRAM):
		return invalid("min_ram_mb must be a whole number from 0 to %d", daemon.MaxImageMinRAM)
	}
	return nil
}

func (s *Server) showImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	img, err := s.daemon.Image(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return reply{body: image(img)}, nil
}

func (s *Server) setImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	change, err := readImageChange(w, r)
	if err != nil {
		return reply{}, err
	}
	img, err := s.daemon.SetImage(r.Context(), c, id, change)
	if err != nil {
		return reply{}, err
	}
	return reply{body: image(img)}, nil
}

func readImageChange(w http.ResponseWriter, r *http.Request) (daemon.ImageChange, error) {
	var n wire.ImageChange
	if err := readDocument(w, r, &n); err != nil {
		return daemon.ImageChange{}, err
	}
	if err := checkTexts([]checked{{"name", n.Name}, {"description", n.Description}, {"visibility", n.Visibility},
		{"login_user", n.LoginUser}, {"login_password", n.LoginPassword}}); err != nil {
		return daemon.ImageChange{}, err
	}
	if err := checkSizes(n.MinDiskGB, n.MinRAMMB); err != nil {
		return daemon.ImageChange{}, err
	}
	if n.ReplaceMetadata && len(n.RemoveMetadata) > 0 {
		return daemon.ImageChange{}, invalid("replace_metadata and remove_metadata exclude each other")
	}
	change := daemon.ImageChange{Name: n.Name, Description: n.Description, Protected: n.Protected, MinDiskGB: n.MinDiskGB,
		MinRAMMB: n.MinRAMMB, LoginUser: n.LoginUser, LoginPassword: n.LoginPassword,
		SetMetadata: n.Metadata, RemoveMetadata: n.RemoveMetadata, ReplaceMetadata: n.ReplaceMetadata, MustRemove: true}
	if n.Visibility != nil {
		v := daemon.Visibility(*n.Visibility)
		change.Visibility = &v
	}
	return change, nil
}

// deleteImage takes an image away, or with later only marks it: then the collector does.
func (s *Server) deleteImage(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	f, err := readQuery(r, deleteParams)
	if err != nil {
		return reply{}, err
	}
	if f["later"] == "true" {
		img, err := s.daemon.RequestImageDelete(r.Context(), c, id)
		if err != nil {
			return reply{}, err
		}
		return reply{body: image(img)}, nil
	}
	op, err := s.daemon.DeleteImage(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return accepted(id, op), nil
}

func (s *Server) verifyImage(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := pathID(r, "image")
	if err != nil {
		return reply{}, err
	}
	if err := readNothing(w, r); err != nil {
		return reply{}, err
	}
	op, err := s.daemon.VerifyImage(r.Context(), c, id)
	if err != nil {
		return reply{}, err
	}
	return accepted(id, op), nil
}

func (s *Server) collectImages(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readQuery(r, gcParams)
	if err != nil {
		return reply{}, err
	}
	if err := readNoBody(w, r); err != nil {
		return reply{}, err
	}
	dry := f["dry_run"] == "true"
	found, err := s.daemon.CollectImages(r.Context(), c, dry)
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.ImageWasteList{DryRun: dry, Waste: each(found, imageWaste)}}, nil
}

func (s *Server) shareCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := capsuleID(r)
	if err != nil {
		return reply{}, err
	}
	var n wire.NewShare
	if err := readDocument(w, r, &n); err != nil {
		return reply{}, err
	}
	if err := checkTexts([]checked{{"name", &n.Name}, {"description", &n.Description}}); err != nil {
		return reply{}, err
	}
	img, op, err := s.daemon.ShareCapsule(r.Context(), c, daemon.NewShare{Capsule: id, Name: n.Name, Description: n.Description, Public: n.Public})
	if err != nil {
		return reply{}, err
	}
	p := accepted(img.ID, op)
	p.location = "/v1/images/" + img.ID
	return p, nil
}
