package nova

import (
	"net/http"
	"net/url"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

func (c *call) list() (dialect.Reply, error)       { return c.page("/images", (*links).brief) }
func (c *call) listDetail() (dialect.Reply, error) { return c.page("/images/detail", (*links).detail) }

// page answers a list of images. The link to the next page is there when this one is full, even if it happens to be the
// last (images contract, section 4.2).
func (c *call) page(path string, show func(*links, []byte, *daemon.Image) []byte) (dialect.Reply, error) {
	l, given, err := c.parseQuery(c.URL.RawQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	found, err := c.images.FindImages(c.Context(), c.Caller, l.ImageQuery)
	if err != nil {
		return dialect.Reply{}, err
	}
	links := c.links()
	b := append(c.Buffer(), `{"images":[`...)
	for i := range found.Images {
		if i > 0 {
			b = append(b, ',')
		}
		b = show(links, b, found.Images[i])
	}
	b = append(b, ']')
	if n := len(found.Images); n > 0 && n == l.Limit {
		b = append(b, `,"images_links":[{"rel":"next","href":`...)
		b = appendString(b, c.Base+c.prefix+c.projectPath()+path+"?"+next(given, found.Images[n-1].ID))
		b = append(b, `}]`...)
	}
	return reply(append(b, '}')), nil
}

// next is a query string with every parameter as it counted, sorted, and the marker of the page that follows.
func next(given url.Values, marker string) string {
	out := url.Values{"marker": {marker}}
	for name, values := range given {
		if name != "marker" {
			out[name] = values[len(values)-1:]
		}
	}
	return out.Encode()
}

// projectPath is the project as this request's path names it, and so do links.
func (c *call) projectPath() string {
	if c.project == "" {
		return ""
	}
	return "/" + url.PathEscape(c.project)
}

func (c *call) show() (dialect.Reply, error) {
	img, err := c.image()
	if err != nil {
		return dialect.Reply{}, err
	}
	b := c.links().detail(append(c.Buffer(), `{"image":`...), &img)
	return reply(append(b, '}')), nil
}

// image is the image that the path names. One whose bytes are gone is gone here as well; lists alone still tell.
func (c *call) image() (daemon.Image, error) {
	if err := c.checkID(); err != nil {
		return daemon.Image{}, err
	}
	img, err := c.images.Image(c.Context(), c.Caller, c.id)
	if err == nil && img.State == daemon.ImageDeleted {
		return daemon.Image{}, noImage()
	}
	return img, err
}

// checkID refuses what is no UUID as what does not exist: clients expect 404 of any text in an image's place.
func (c *call) checkID() error {
	if len(c.id) != 36 {
		return noImage()
	}
	for i := range len(c.id) {
		at, dash := c.id[i], i == 8 || i == 13 || i == 18 || i == 23
		hex := at >= '0' && at <= '9' || at >= 'a' && at <= 'f' || at >= 'A' && at <= 'F'
		if dash != (at == '-') || !dash && !hex {
			return noImage()
		}
	}
	return nil
}

func noImage() *dialect.Refusal {
	return &dialect.Refusal{Code: daemon.NotFound, Message: "image not found"}
}

func (c *call) remove() (dialect.Reply, error) {
	if err := c.checkID(); err != nil {
		return dialect.Reply{}, err
	}
	_, err := c.images.RequestActiveImageDelete(c.Context(), c.Caller, c.id)
	return dialect.Reply{Status: http.StatusNoContent}, err
}
