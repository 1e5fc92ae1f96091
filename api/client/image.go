package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/capsuled/capsuled/api/wire"
)

// AddImage begins to import an image from a file of the daemon's host (n.Path, absolute; only administrators on the host
// itself may name one) or from n.URL. The import goes on after the call; the image can be used when its operation has
// succeeded.
func (c *Client) AddImage(ctx context.Context, n wire.NewImage) (wire.Accepted, error) {
	var accepted wire.Accepted
	if n.Path == "" && n.URL == "" {
		return accepted, &Error{Code: Invalid, Message: "an image is added from a path or a URL; what is sent goes by NewUpload"}
	}
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/images", json: n, out: &accepted})
	return accepted, err
}

// NewUpload makes an image whose bytes are sent by Upload.
func (c *Client) NewUpload(ctx context.Context, n wire.NewImage) (wire.Image, error) {
	var image wire.Image
	if n.Path != "" || n.URL != "" {
		return image, &Error{Code: Invalid, Message: "what is sent has neither path nor URL"}
	}
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/images", json: n, out: &image})
	return image, err
}

// ImageFilter narrows a list of images; zero fields match everything, but for State.
type ImageFilter struct {
	Name       string
	State      string // as wire.Image has it, or "any"; "" means ACTIVE and SHARE_PENDING
	Owner      string // guid
	Visibility string
	Limit      int    // at most 1000; 0 for no limit
	Marker     string // id of an image, in this list or not any more: only what comes after it
}

// Images lists the images that the caller may see, newest first.
func (c *Client) Images(ctx context.Context, f ImageFilter) (wire.ImageList, error) {
	query := url.Values{}
	for name, value := range map[string]string{"name": f.Name, "state": f.State, "owner": f.Owner, "visibility": f.Visibility,
		"limit": number(f.Limit), "marker": f.Marker} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var list wire.ImageList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/images", query: query, out: &list})
	return list, err
}

// image makes a call about one image; rest is what follows its id in the path.
func (c *Client) image(ctx context.Context, id, rest string, call call) error {
	if err := checkID("an image", id); err != nil {
		return err
	}
	call.path = "/v1/images/" + id + rest
	_, err := c.do(ctx, call)
	return err
}

// Image describes one image.
func (c *Client) Image(ctx context.Context, id string) (wire.Image, error) {
	var image wire.Image
	err := c.image(ctx, id, "", call{method: http.MethodGet, out: &image})
	return image, err
}

// SetImage changes what is said of an image that is ACTIVE, all of it or nothing.
func (c *Client) SetImage(ctx context.Context, id string, change wire.ImageChange) (wire.Image, error) {
	var image wire.Image
	err := c.image(ctx, id, "", call{method: http.MethodPatch, json: change, out: &image})
	return image, err
}

// DeleteImage begins to delete an image. Capsules made from it keep what they need.
func (c *Client) DeleteImage(ctx context.Context, id string) (wire.Accepted, error) {
	var accepted wire.Accepted
	err := c.image(ctx, id, "", call{method: http.MethodDelete, out: &accepted})
	return accepted, err
}

// RequestImageDelete takes an image out of use; its bytes go when the daemon collects.
func (c *Client) RequestImageDelete(ctx context.Context, id string) (wire.Image, error) {
	var image wire.Image
	err := c.image(ctx, id, "", call{method: http.MethodDelete, query: url.Values{"later": {"true"}}, out: &image})
	return image, err
}

// VerifyImage begins to read all of an image again and to hold it against its digest.
func (c *Client) VerifyImage(ctx context.Context, id string) (wire.Accepted, error) {
	var accepted wire.Accepted
	err := c.image(ctx, id, "/verify", call{method: http.MethodPost, out: &accepted})
	return accepted, err
}

// CollectImages removes what nothing needs any more, or with dryRun only says what that would be.
func (c *Client) CollectImages(ctx context.Context, dryRun bool) (wire.ImageWasteList, error) {
	var list wire.ImageWasteList
	query := url.Values{"dry_run": {strconv.FormatBool(dryRun)}}
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/images/gc", query: query, out: &list})
	return list, err
}

// ShareCapsule begins to make an image of the disk of a capsule that is SHUTDOWN.
func (c *Client) ShareCapsule(ctx context.Context, vmid string, n wire.NewShare) (wire.Accepted, error) {
	var accepted wire.Accepted
	_, err := c.capsule(ctx, call{method: http.MethodPost, path: "/share", json: n, out: &accepted}, vmid)
	return accepted, err
}

// ActivateImage says that the bytes of an image are wherever they must be; for administrators and peers.
func (c *Client) ActivateImage(ctx context.Context, id string) (wire.ImageInfo, error) {
	var info wire.ImageInfo
	_, err := c.do(ctx, call{method: http.MethodPut, path: "/activateimage", form: url.Values{"imageId": {id}}, out: &info})
	return info, err
}

// CancelOperation has an operation end early, if it can, and returns it as it is then: it may run on for a while.
func (c *Client) CancelOperation(ctx context.Context, id string) (wire.Operation, error) {
	var op wire.Operation
	if err := checkID("an operation", id); err != nil {
		return op, err
	}
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/operations/" + id + "/cancel", out: &op})
	return op, err
}
