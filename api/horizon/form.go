package horizon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// formSlack is what a form's boundaries and the headers of its parts may add to its fields.
const formSlack = 1 << 16

var errFormTooLong = errors.New("the form has too much before or after its file")

// gate bounds how much may be read while it is shut, so that a form's headers cannot fill the memory.
type gate struct {
	r    io.Reader
	left int64
	open bool // for the file
}

func (g *gate) Read(p []byte) (int, error) {
	if g.open {
		return g.r.Read(p)
	}
	if g.left <= 0 {
		return 0, errFormTooLong
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	return n, err
}

// form reads a form as a stream: its fields, then its file.
type form struct {
	parts *multipart.Reader
	gate  *gate
}

func newForm(contentType string, body io.Reader) (*form, error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" || len(params["boundary"]) > 70 { // RFC 2046, section 5.1.1
		return nil, dialect.Invalid("the form's Content-Type must name its boundary, of 1 to 70 characters")
	}
	g := &gate{r: body, left: dialect.MaxBody + formSlack}
	return &form{parts: multipart.NewReader(g, params["boundary"]), gate: g}, nil
}

// fields reads up to the file, the part "data". The field $$originalJSON has all fields in one; without it each is a part.
func (f *form) fields() (dialect.Object, *multipart.Part, error) {
	plain, whole, left := dialect.Object{}, dialect.Object(nil), int64(dialect.MaxBody)
	for {
		part, err := f.parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil, nil, dialect.Invalid("the form has no file: its last part must be data")
		}
		if err != nil {
			return nil, nil, badForm(err)
		}
		name := part.FormName()
		if name == "data" {
			f.gate.open = true
			if whole != nil {
				return whole, part, nil
			}
			return plain, part, nil
		}
		value, err := io.ReadAll(io.LimitReader(part, left+1))
		if err != nil {
			return nil, nil, badForm(err)
		}
		if left -= int64(len(value)); left < 0 {
			return nil, nil, badForm(errFormTooLong)
		}
		if name == "$$originalJSON" {
			if whole != nil {
				return nil, nil, dialect.Invalid("the form has $$originalJSON more than once")
			}
			if whole, err = dialect.ParseObject(value); err != nil {
				return nil, nil, dialect.Invalid("malformed JSON request: %v", err)
			}
			continue
		}
		if err := add(plain, name, value); err != nil {
			return nil, nil, err
		}
	}
}

// ends finds that nothing comes after the file.
func (f *form) ends() error {
	f.gate.open, f.gate.left = false, formSlack
	part, err := f.parts.NextRawPart()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return badForm(err)
	}
	return dialect.Invalid("the form has the field %.80q after its file: fields come first", part.FormName())
}

func badForm(err error) error {
	if errors.Is(err, errFormTooLong) {
		return dialect.Refuse(413, daemon.Invalid, "the form's fields exceed %d bytes", dialect.MaxBody)
	}
	return &dialect.Refusal{Code: daemon.Invalid, Message: "the form is malformed, or ends too early", Err: err}
}

// createFromForm makes an image of the file in a form. Unless all of it arrives, and nothing else, there is no image.
func (f *Family) createFromForm(c *call) (dialect.Reply, error) {
	ctx, body := c.Patient()
	in, err := newForm(c.Header.Get("Content-Type"), body)
	if err != nil {
		return dialect.Reply{}, err
	}
	o, file, err := in.fields()
	if err != nil {
		return dialect.Reply{}, err
	}
	d, err := decodeDraft(o, true)
	if err != nil {
		return dialect.Reply{}, err
	}
	i, _, err := f.daemon.AddImage(ctx, c.Caller, d.image)
	if err != nil {
		return dialect.Reply{}, err
	}
	op, err := f.fill(ctx, c.Caller, i.ID, in, file)
	if err != nil {
		f.giveUp(ctx, c.Caller, i.ID)
		return dialect.Reply{}, err
	}
	if now, err := f.daemon.Image(ctx, c.Caller, i.ID); err == nil { // with the state that it has by now
		i = now
	}
	return created(c, i, op, false)
}

func (f *Family) fill(ctx context.Context, caller daemon.Caller, id string, in *form, file io.Reader) (daemon.Operation, error) {
	noted := &noting{r: file}
	if _, err := f.daemon.AppendImage(ctx, caller, id, -1, noted); noted.err != nil {
		return daemon.Operation{}, badForm(noted.err) // the form's fault, whatever the daemon makes of it
	} else if err != nil {
		return daemon.Operation{}, err
	}
	if err := in.ends(); err != nil {
		return daemon.Operation{}, err
	}
	return f.daemon.FinishImage(ctx, caller, id)
}

// noting keeps the error that ended a file before its end.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	read, err := n.r.Read(p)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return read, err
}

// giveUp takes back an image whose bytes did not come. The caller may be gone by now.
func (f *Family) giveUp(ctx context.Context, caller daemon.Caller, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// Its owner still sees the image, and can delete it, if this fails; the daemon has logged why.
	_, _ = f.daemon.RequestImageDelete(ctx, caller, id)
}

func add(o dialect.Object, name string, value []byte) error {
	if name == "" {
		return dialect.Invalid("the form has a part without a name")
	}
	if _, twice := o[name]; twice {
		return dialect.Invalid("the form has %.80q more than once", name)
	}
	if !utf8.ValidString(name) || !utf8.Valid(value) {
		return dialect.Invalid("the form's fields must be UTF-8")
	}
	raw, err := json.Marshal(string(value))
	o[name] = raw
	return err
}
