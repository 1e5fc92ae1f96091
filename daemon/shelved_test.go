package daemon_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// shelved checks that the store of images has what the records name and no more; what a fault left behind, a full pass
// may take first.
func (b *bench) shelved() {
	b.t.Helper()
	if faults := b.shelfFaults(); len(faults) == 0 {
		return
	}
	b.pass()
	for _, fault := range b.shelfFaults() {
		b.t.Error(fault)
	}
}

func (b *bench) shelfFaults() (faults []string) {
	b.t.Helper()
	var images []store.Image
	if err := b.db.View(b.t.Context(), func(tx *store.Tx) (err error) { images, err = tx.Images(); return err }); err != nil {
		b.t.Fatal(err)
	}
	complain := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	m := b.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	named, awaited := map[imagestore.Digest]bool{}, map[imagestore.UploadID]bool{}
	for _, i := range images {
		d := imagestore.Digest(i.Digest)
		named[d], awaited[imagestore.UploadID(i.Upload)] = true, true
		_, there := m.images[d]
		switch i.State {
		case daemon.ImageActive, daemon.ImageDeletePending:
			if i.Digest != "" && !there || i.Digest == "" && i.State == daemon.ImageActive {
				complain("image %s is %s and its bytes %q are not there", i.Name, i.State, d)
			}
		case daemon.ImagePending:
			if i.Digest != "" && !there {
				complain("image %s waits for peers, and its bytes are not there", i.Name)
			}
		default:
			complain("image %s lives and is %s", i.Name, i.State)
		}
	}
	for d := range m.images {
		if !named[d] {
			complain("bytes %s have no record", d)
		}
	}
	for id := range m.uploads {
		if !awaited[id] {
			complain("upload %s has no record", id)
		}
	}
	slices.Sort(faults)
	return faults
}

const sourceURL = "https://images.example.org/guest.qcow2"

// send adds an image, sends its bytes in pieces and asks for its finish.
func (b *bench) send(ctx context.Context, c daemon.Caller, name string, pieces ...string) (op daemon.Operation, err error) {
	i, _, err := b.AddImage(ctx, c, daemon.NewImage{Name: name, Bytes: int64(len(strings.Join(pieces, "")))})
	at := int64(0)
	for _, p := range pieces {
		if err != nil {
			return op, err
		}
		var u daemon.ImageUpload
		u, err = b.AppendImage(ctx, c, i.ID, at, strings.NewReader(p))
		at = u.Received
	}
	if err != nil {
		return op, err
	}
	return b.FinishImage(ctx, c, i.ID)
}
