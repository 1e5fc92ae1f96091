package glance

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// settle is how long an upload waits for the inspection of its bytes before it replies.
const settle = 20 * time.Second

// upload takes an image's bytes, from the first. One that was cut leaves the image as it was, awaiting them.
func (f *Family) upload(c *call) (dialect.Reply, error) {
	if err := c.media("application/octet-stream"); err != nil {
		return dialect.Reply{}, err
	}
	ctx, body := c.Patient()
	noted := &noting{r: body}
	if _, err := f.daemon.AppendImage(ctx, c.Caller, c.id(), -1, noted); noted.err != nil {
		// Not the daemon's failure, whatever it makes of it.
		return dialect.Reply{}, &dialect.Refusal{Code: daemon.Invalid, Message: "the bytes ended too early; send them again", Err: noted.err}
	} else if err != nil {
		return dialect.Reply{}, err
	}
	op, err := f.daemon.FinishImage(ctx, c.Caller, c.id())
	if err != nil {
		return dialect.Reply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if op, err = f.daemon.WaitOperation(ctx, c.Caller, op.ID); err != nil {
		return dialect.Reply{}, err
	}
	if op.State == daemon.OperationFailed {
		return dialect.Reply{}, &dialect.Refusal{Code: op.Code, Message: op.Cause}
	}
	p, _ := noContent(nil)
	p.Operation = op.ID
	return p, nil
}

// noting keeps the error that ended a body before its end.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	read, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		n.err = err
	}
	return read, err
}

// download sends the bytes, or the ranges of them that are asked for; nothing of an image that has none yet.
func (f *Family) download(c *call) (dialect.Reply, error) {
	i, err := f.image(c)
	if err != nil {
		return dialect.Reply{}, err
	}
	if i.State == daemon.ImagePending {
		return noContent(nil)
	}
	file, _, err := f.daemon.OpenImage(c.Context(), c.Caller, c.id())
	if err != nil {
		return dialect.Reply{}, err
	}
	return dialect.Reply{
		MediaType: "application/octet-stream",
		Stream: func(w http.ResponseWriter, r *http.Request) {
			defer file.Close()
			http.ServeContent(w, r, "", time.Time{}, file)
		},
	}, nil
}
