package client

import (
	"context"
	"net/http"

	"github.com/capsuled/capsuled/api/wire"
)

// AddImage begins to import an image from a file of the daemon's host (n.Path, absolute). The import goes on after
// the call; the image can be used when its operation has succeeded. Only administrators on the host itself may.
func (c *Client) AddImage(ctx context.Context, n wire.NewImage) (wire.Accepted, error) {
	var accepted wire.Accepted
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/v1/images", json: n, out: &accepted})
	return accepted, err
}

// Images lists the images that the caller may see.
func (c *Client) Images(ctx context.Context) (wire.ImageList, error) {
	var list wire.ImageList
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/images", out: &list})
	return list, err
}

// Image describes one image.
func (c *Client) Image(ctx context.Context, id string) (wire.Image, error) {
	var image wire.Image
	if err := checkID("an image", id); err != nil {
		return image, err
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/images/" + id, out: &image})
	return image, err
}

// DeleteImage begins to delete an image. Capsules made from it keep what they need.
func (c *Client) DeleteImage(ctx context.Context, id string) (wire.Accepted, error) {
	var accepted wire.Accepted
	if err := checkID("an image", id); err != nil {
		return accepted, err
	}
	_, err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/images/" + id, out: &accepted})
	return accepted, err
}
