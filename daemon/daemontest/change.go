package daemontest

import (
	"context"
	"errors"
	"testing"

	"github.com/capsuled/capsuled/daemon"
)

// Changes are the verbs by which Nova and Synnefo change images.
type Changes interface {
	SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error)
	RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
}

// RunChanges asks for every change of an image in every state, as its owner (images contract, section 3). A daemon passes it, and so
// does whatever stands in for one: start has it, with one image in that state, protected or not.
func RunChanges(t *testing.T, start func(t *testing.T, state daemon.ImageState, protected bool) (d Changes, owner daemon.Caller, id string)) {
	const ok = daemon.Code("")
	for _, row := range []struct {
		name        string
		state       daemon.ImageState
		protected   bool
		set, delete daemon.Code
		then        daemon.ImageState // once it is deleted
	}{
		{"awaited", daemon.ImagePending, false, daemon.Conflict, daemon.Conflict, ""},
		{"awaited, protected", daemon.ImagePending, true, daemon.Conflict, daemon.Conflict, ""},
		{"active", daemon.ImageActive, false, ok, ok, daemon.ImageDeletePending},
		{"active, protected", daemon.ImageActive, true, ok, daemon.Forbidden, ""},
		{"leaving", daemon.ImageDeletePending, false, daemon.Gone, daemon.Gone, ""},
		{"leaving, protected", daemon.ImageDeletePending, true, daemon.Gone, daemon.Gone, ""},
		{"purged", daemon.ImageDeleted, false, daemon.Gone, daemon.Gone, ""},
		{"failed", daemon.ImageError, false, daemon.Gone, ok, daemon.ImageDeleted},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, owner, id := start(t, row.state, row.protected)
			_, err := d.SetImage(t.Context(), owner, id, daemon.ImageChange{SetMetadata: map[string]string{"k": "v"}})
			if codeOf(err) != row.set {
				t.Errorf("setting an item is %q, want %q: %v", codeOf(err), row.set, err)
			}
			if errors.Is(err, daemon.ErrPurged) != (row.state == daemon.ImageDeleted) {
				t.Errorf("of one that is %s: %v", row.state, err)
			}
			i, err := d.RequestActiveImageDelete(t.Context(), owner, id)
			if codeOf(err) != row.delete || i.State != row.then {
				t.Errorf("deleting is %q, and then it is %q; want %q and %q: %v", codeOf(err), i.State, row.delete, row.then, err)
			}
		})
	}
}

func codeOf(err error) daemon.Code {
	if e, ok := errors.AsType[*daemon.Error](err); ok {
		return e.Code
	}
	if err != nil {
		return daemon.Internal
	}
	return ""
}
