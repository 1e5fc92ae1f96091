package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/capsuled/capsuled/api/wire"
)

// Bounds of a transfer.
const (
	stalled  = 2 * time.Minute // how long nothing may move; the daemon may have much to write back at the end
	attempts = 6               // in a row without a byte of progress
	piece    = 8 << 20         // of a source that cannot be read again
)

// Transfer is told how far a transfer is: done bytes of total, -1 when that is not known. It must not wait.
type Transfer func(done, total int64)

// Upload sends the bytes of an image that awaits them, and returns the operation that then checks it. size is how many
// there are, -1 when nobody knows. When the connection is cut it asks how much came and goes on from there, as long as
// something moves. A source that is no io.Seeker is sent in pieces, each of which is kept until it has arrived.
func (c *Client) Upload(ctx context.Context, id string, from io.Reader, size int64, progress Transfer) (wire.Accepted, error) {
	if err := checkID("an image", id); err != nil {
		return wire.Accepted{}, err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	u := &upload{Client: c, ctx: ctx, path: "/v1/images/" + id + "/file", id: id, size: size, progress: progress}
	if s, ok := from.(io.ReadSeeker); ok {
		if base, err := s.Seek(0, io.SeekCurrent); err == nil {
			return u.send(0, true, func(at int64) (io.Reader, error) {
				_, err := s.Seek(base+at, io.SeekStart)
				return struct{ io.Reader }{s}, err
			})
		}
	}
	buffer := make([]byte, piece)
	for at := int64(0); ; {
		n, err := io.ReadFull(from, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return wire.Accepted{}, fmt.Errorf("client: read what is sent: %w", err)
		}
		if at+int64(n) == 0 { // as of a pipe whose other end has failed; the daemon would speak of offsets
			return wire.Accepted{}, &Error{Code: Invalid, Message: "there is nothing to send: not one byte could be read"}
		}
		first := at
		accepted, err := u.send(at, last, func(at int64) (io.Reader, error) {
			if at < first || at > first+int64(n) {
				return nil, &Error{Code: Conflict, Message: fmt.Sprintf("the daemon has %d bytes of the image: somebody else sends it too", at)}
			}
			return bytes.NewReader(buffer[at-first : n]), nil
		})
		if err != nil || last || accepted.ID != "" {
			return accepted, err
		}
		at += int64(n)
	}
}

// upload is one image on its way.
type upload struct {
	*Client
	ctx      context.Context
	path, id string
	size     int64
	progress Transfer
}

// send sends from at on, again and again; rest is what there is from an offset on.
func (u *upload) send(at int64, last bool, rest func(at int64) (io.Reader, error)) (wire.Accepted, error) {
	tries, pause := 0, pollGap
	for {
		body, err := rest(at)
		if err != nil {
			return wire.Accepted{}, err
		}
		accepted, err := u.put(at, last, body)
		if err == nil || !passing(err) || u.ctx.Err() != nil {
			return accepted, u.late(&accepted, err, tries)
		}
		if tries++; tries >= attempts {
			return accepted, err
		}
		if slept := sleep(u.ctx, pause); slept != nil {
			return accepted, slept
		}
		pause = min(2*pause, maxPause)
		there, err := u.received()
		switch {
		case Is(err, Conflict) || Is(err, Gone): // nothing is awaited any more: the answer to the last piece was lost
			return accepted, u.late(&accepted, err, tries)
		case err != nil && !passing(err):
			return accepted, err
		case err == nil && there > at:
			at, tries, pause = there, 0, pollGap
		case err == nil:
			at = there
		}
	}
}

// late looks, when a repeated piece is refused, for the operation that the first one began.
func (u *upload) late(accepted *wire.Accepted, err error, tries int) error {
	if tries == 0 || !Is(err, Conflict) && !Is(err, Busy) {
		return err
	}
	list, failed := u.Operations(u.ctx, OperationFilter{Target: u.id, Limit: 1})
	if failed != nil || len(list.Operations) == 0 {
		return err
	}
	*accepted = wire.Accepted{ID: u.id, Operation: list.Operations[0]}
	return nil
}

// put sends one body. The zero Accepted means that more is awaited.
func (u *upload) put(at int64, last bool, body io.Reader) (wire.Accepted, error) {
	ctx, watch := watched(u.ctx)
	defer watch.stop()
	query := url.Values{}
	if last {
		query.Set("finish", "true")
	}
	length := int64(-1)
	if b, ok := body.(*bytes.Reader); ok {
		length = int64(b.Len())
	} else if u.size >= 0 {
		length = u.size - at
	}
	moved := &counted{r: body, each: func(n int64) { watch.touch(); u.progress(at+n, u.size) }}
	req, err := u.request(ctx, call{method: http.MethodPut, path: u.path, query: query})
	if err != nil {
		return wire.Accepted{}, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // what will be refused need not be sent
	req.Header.Set(wire.UploadOffsetHeader, strconv.FormatInt(at, 10))
	req.Body, req.ContentLength = io.NopCloser(moved), length
	if length == 0 {
		req.Body = http.NoBody
	}
	resp, err := u.http.Do(req)
	if err != nil {
		if moved.err != nil {
			return wire.Accepted{}, fmt.Errorf("client: read what is sent: %w", moved.err)
		}
		return wire.Accepted{}, u.unreachable(u.ctx, stalled, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	var accepted wire.Accepted
	switch {
	case err != nil:
		return accepted, u.unreachable(u.ctx, stalled, err)
	case resp.StatusCode >= 300:
		return accepted, decodeError(resp, raw)
	case resp.StatusCode != http.StatusAccepted:
		return accepted, nil
	}
	if err := json.Unmarshal(raw, &accepted); err != nil {
		return accepted, fmt.Errorf("client: PUT %s: no JSON in the reply: is that capsuled? %w", u.path, err)
	}
	return accepted, nil
}

// received asks how many bytes came.
func (u *upload) received() (int64, error) {
	h, err := u.do(u.ctx, call{method: http.MethodHead, path: u.path})
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(h.Get(wire.UploadOffsetHeader), 10, 64)
	if err != nil || n < 0 {
		return 0, &Error{Code: Conflict, Message: "the image awaits no bytes any more"}
	}
	return n, nil
}

// Export writes the bytes of an image to a writer and checks that they are those of its digest. have, if not nil, is
// read first: what is at the destination already, from an export that was cut. When the connection is cut it goes on
// from there. An error that is an *Error of code Conflict says that the digest is another: then nothing of it is good.
func (c *Client) Export(ctx context.Context, id string, have io.Reader, to io.Writer, progress Transfer) (wire.Image, error) {
	image, err := c.Image(ctx, id)
	if err != nil {
		return image, err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	sum := sha256.New()
	at := int64(0)
	if have != nil {
		if at, err = io.Copy(sum, have); err != nil {
			return image, fmt.Errorf("client: read what is there already: %w", err)
		}
	}
	out := &counted{w: io.MultiWriter(to, sum)}
	for tries, pause := 0, pollGap; image.State != "ACTIVE" || at < image.FileBytes; {
		err := c.get(ctx, image, at, out, progress)
		if out.err != nil {
			return image, out.err
		}
		moved := out.n > 0
		at, out.n = at+out.n, 0
		switch {
		case err == nil:
			continue
		case !passing(err) || ctx.Err() != nil:
			return image, err
		case moved:
			tries, pause = 0, pollGap
		default:
			if tries++; tries >= attempts {
				return image, err
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return image, err
		}
		pause = min(2*pause, maxPause)
	}
	return image, checkSum(sum, at, image)
}

func checkSum(sum hash.Hash, got int64, image wire.Image) error {
	if digest := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != image.FileBytes || digest != image.Digest {
		return &Error{Code: Conflict, Message: fmt.Sprintf("what came has %d bytes and the digest %s; the image has %d and %s", got, digest, image.FileBytes, image.Digest)}
	}
	return nil
}

// get copies what there is of an image from at on.
func (c *Client) get(ctx context.Context, image wire.Image, at int64, out *counted, progress Transfer) error {
	moving, watch := watched(ctx)
	defer watch.stop()
	req, err := c.request(moving, call{method: http.MethodGet, path: "/v1/images/" + image.ID + "/file"})
	if err != nil {
		return err
	}
	want := http.StatusOK
	if at > 0 {
		want = http.StatusPartialContent
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
		req.Header.Set("If-Range", strconv.Quote(image.Digest))
	}
	req.Header.Set("Accept", "application/octet-stream")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, stalled, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply)) // what it says of itself is a courtesy
		return decodeError(resp, raw)
	}
	if resp.StatusCode != want {
		return &Error{Status: resp.StatusCode, Code: Conflict, Message: fmt.Sprintf("the daemon does not go on from byte %d: these are other bytes", at)}
	}
	out.each = func(n int64) { watch.touch(); progress(at+n, image.FileBytes) }
	if _, err := io.Copy(struct{ io.Writer }{out}, resp.Body); err != nil {
		return c.unreachable(ctx, stalled, err)
	}
	return nil
}

// counted reads or writes, counts, and keeps the error of this side apart from those of the network.
type counted struct {
	r    io.Reader
	w    io.Writer
	n    int64
	err  error
	each func(n int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.each(c.n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.each(c.n)
	c.err = err
	return n, err
}

// watch ends a transfer in which nothing moves.
type watch struct {
	timer  *time.Timer
	cancel context.CancelFunc
}

func watched(ctx context.Context) (context.Context, watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, watch{time.AfterFunc(stalled, func() { cancel(context.DeadlineExceeded) }), func() { cancel(nil) }}
}

func (w watch) touch() { w.timer.Reset(stalled) }

func (w watch) stop() {
	w.timer.Stop()
	w.cancel()
}
