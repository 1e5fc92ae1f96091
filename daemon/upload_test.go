package daemon_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/capsuled/capsuled/daemon"
)

// TestArrivals: what was asked for is held against what came, and what failed leaves a tombstone and nothing else.
func TestArrivals(t *testing.T) {
	digest := string(of("QFI x").Digest)
	other := string(of("y").Digest)
	for name, c := range map[string]struct {
		content string
		n       daemon.NewImage
		want    daemon.Code
	}{
		"as it is":      {"QFI x", daemon.NewImage{}, ok},
		"as announced":  {"QFI x", daemon.NewImage{Format: "qcow2", Digest: digest}, ok},
		"another form":  {"QFI x", daemon.NewImage{Format: "raw"}, daemon.Invalid},
		"another bytes": {"QFI x", daemon.NewImage{Digest: other}, daemon.Invalid},
	} {
		for way, add := range map[string]func(*bench, daemon.NewImage) (daemon.Image, daemon.Operation, error){
			"fetched": func(b *bench, n daemon.NewImage) (daemon.Image, daemon.Operation, error) {
				b.machine.urls[sourceURL], n.URL = c.content, sourceURL
				return b.AddImage(t.Context(), alice, n)
			},
			"sent": func(b *bench, n daemon.NewImage) (daemon.Image, daemon.Operation, error) {
				i, _, err := b.AddImage(t.Context(), alice, n)
				if err != nil {
					return i, daemon.Operation{}, err
				}
				if _, err := b.AppendImage(t.Context(), alice, i.ID, 0, strings.NewReader(c.content)); err != nil {
					return i, daemon.Operation{}, err
				}
				op, err := b.FinishImage(t.Context(), alice, i.ID)
				return i, op, err
			},
			"a file": func(b *bench, n daemon.NewImage) (daemon.Image, daemon.Operation, error) {
				b.machine.sources[sourcePath], n.Path = of(c.content), sourcePath
				return b.AddImage(t.Context(), root, n)
			},
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				b := newBench(t, nil)
				c.n.Name, c.n.LoginUser, c.n.LoginPassword = "name", "u", "p"
				i, op, err := add(b, c.n)
				op = b.wait(op, err)
				if op.Code != c.want {
					t.Errorf("%q: %s", op.Code, op.Cause)
				}
				i, err = b.Image(t.Context(), root, i.ID)
				if err != nil {
					t.Fatal(err)
				}
				if c.want == ok && (i.State != daemon.ImageActive || i.Digest != digest || i.Format != "qcow2" || !i.Arrived || i.FileBytes != 5 || i.LoginPassword != "p") {
					t.Errorf("%+v", i)
				}
				if c.want != ok && (i.State != daemon.ImageError || i.Cause == "" || i.Name != "" || i.LoginPassword != "" || i.Digest != "" || i.DeletedAt.IsZero()) {
					t.Errorf("%+v", i)
				}
				if err := b.ImageNameFree(t.Context(), alice, "name"); (err == nil) != (c.want != ok) {
					t.Errorf("its name: %v", err)
				}
				b.machine.mu.Lock()
				defer b.machine.mu.Unlock()
				if len(b.machine.uploads) != 0 && op.Ended.IsZero() || c.want != ok && len(b.machine.images) != 0 {
					t.Errorf("left are %v and %v", b.machine.uploads, b.machine.images)
				}
			})
		}
	}
}

// TestUploads: where the bytes go on, and who is told so.
func TestUploads(t *testing.T) {
	b := newBench(t, nil)
	i, _, err := b.AddImage(t.Context(), alice, daemon.NewImage{Name: "n", Bytes: 6})
	if err != nil {
		t.Fatal(err)
	}
	id := i.ID
	add := func(offset int64, bytes string) (int64, daemon.Code) {
		t.Helper()
		u, err := b.AppendImage(t.Context(), alice, id, offset, strings.NewReader(bytes))
		return u.Received, code(err)
	}
	check := func(what string, n int64, c daemon.Code, wantN int64, wantC daemon.Code) {
		t.Helper()
		if n != wantN || c != wantC {
			t.Errorf("%s: %d, %q; want %d, %q", what, n, c, wantN, wantC)
		}
	}
	n, c := add(3, "x")
	check("in the middle", n, c, 0, daemon.Conflict)
	if _, err := b.FinishImage(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("finished without bytes: %v", err)
	}
	if i, _ := b.Image(t.Context(), alice, id); i.Arrived {
		t.Error("nothing has arrived")
	}
	n, c = add(0, "abc")
	check("the first", n, c, 3, ok)
	if i, _ := b.Image(t.Context(), alice, id); !i.Arrived {
		t.Error("something has arrived")
	}
	n, c = add(0, "abc")
	check("again", n, c, 3, daemon.Conflict)
	n, c = add(3, "defg")
	check("too much", n, c, 3, daemon.Invalid)
	n, c = add(-2, "")
	check("nowhere", n, c, 0, daemon.Invalid)
	if _, err := b.FinishImage(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("finished too early: %v", err)
	}
	b.kill()
	b.start() // the next daemon goes on
	n, c = add(3, "d")
	check("after a restart", n, c, 4, ok)
	n, c = add(-1, "uvw")
	check("anew", n, c, 3, ok)
	refused, err := b.AppendImage(t.Context(), alice, id, 3, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(&daemon.Error{Code: daemon.Invalid})))
	check("what its own codec refuses", refused.Received, code(err), 4, daemon.Invalid)
	b.machine.mu.Lock()
	if len(b.machine.uploads) != 1 {
		t.Errorf("%d uploads", len(b.machine.uploads))
	}
	clear(b.machine.uploads) // another boot
	b.machine.mu.Unlock()
	n, c = add(3, "x")
	check("after a boot", n, c, 0, daemon.Conflict)
	if u, err := b.ImageProgress(t.Context(), alice, id); err != nil || u != (daemon.ImageUpload{Bytes: 6}) {
		t.Errorf("%+v, %v", u, err)
	}
	n, c = add(0, "QFI q")
	check("from the beginning", n, c, 5, ok)
	cut, err := b.AppendImage(t.Context(), alice, id, 5, io.MultiReader(strings.NewReader("!"), cutOff{}))
	check("a transfer that is cut", cut.Received, code(err), 6, daemon.Unavailable)
	if u, err := b.ImageProgress(t.Context(), alice, id); err != nil || u != (daemon.ImageUpload{Received: 6, Bytes: 6}) {
		t.Errorf("%+v, %v", u, err)
	}
	b.succeed(b.FinishImage(t.Context(), alice, id))
	if _, err := b.FinishImage(t.Context(), alice, id); code(err) != daemon.Conflict {
		t.Errorf("finished twice: %v", err)
	}
	b.settled()
}

type cutOff struct{}

func (cutOff) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestSendersTakeTurns: two requests do not send at once, none finishes under another, and who gives the image up ends
// what comes.
func TestSendersTakeTurns(t *testing.T) {
	b := newBench(t, nil)
	i, _, err := b.AddImage(t.Context(), alice, daemon.NewImage{})
	if err != nil {
		t.Fatal(err)
	}
	pipe, feed := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := b.AppendImage(t.Context(), alice, i.ID, 0, pipe)
		ended <- err
	}()
	if _, err := feed.Write([]byte("x")); err != nil { // it is being read
		t.Fatal(err)
	}
	if _, err := b.AppendImage(t.Context(), alice, i.ID, 0, strings.NewReader("y")); code(err) != daemon.Busy {
		t.Errorf("a second sender: %v", err)
	}
	if _, err := b.FinishImage(t.Context(), alice, i.ID); code(err) != daemon.Busy {
		t.Errorf("finished meanwhile: %v", err)
	}
	if _, err := b.RequestImageDelete(t.Context(), alice, i.ID); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if err := <-ended; code(err) != daemon.Gone {
		t.Errorf("it was given up: %v", err)
	}
	b.settled()
	if !slices.Contains(b.machine.calls, "AbortUpload") {
		t.Error("the upload was not dropped")
	}
}

// TestNothingSent: an upload without a byte is no image that never came: what is missing can still be sent.
func TestNothingSent(t *testing.T) {
	b := newBench(t, nil)
	i, _, err := b.AddImage(t.Context(), alice, daemon.NewImage{Name: "n", Bytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AppendImage(t.Context(), alice, i.ID, -1, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.FinishImage(t.Context(), alice, i.ID); code(err) != daemon.Conflict {
		t.Errorf("finished without a byte: %v", err)
	}
	if _, err := b.AppendImage(t.Context(), alice, i.ID, 0, strings.NewReader("QFI x")); err != nil {
		t.Fatal(err)
	}
	b.succeed(b.FinishImage(t.Context(), alice, i.ID))
	b.settled()
}
