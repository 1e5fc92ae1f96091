// Package daemontest has the image verbs of a daemon, in memory and strict, for the tests of whoever calls them.
package daemontest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon"
)

// Images is what a daemon knows of images and of metadata definitions. Its clock moves a second with each change.
// Bytes that begin with "BAD" fail inspection; those that begin with "QFI" are qcow2, all others raw.
type Images struct {
	T testing.TB
	// Slow keeps images pending until Settle: FinishImage and a URL begin operations that do not end by themselves.
	Slow bool

	mu       sync.Mutex
	now      time.Time
	images   map[string]*kept
	ops      map[string]*daemon.Operation
	metadefs map[string]daemon.Metadef
	fail     map[string]error
}

type kept struct {
	daemon.Image
	data []byte
	busy string // the operation that is under way

}

// New returns a daemon without images.
func New(t testing.TB) *Images {
	return &Images{T: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), images: map[string]*kept{}, ops: map[string]*daemon.Operation{},
		metadefs: map[string]daemon.Metadef{}, fail: map[string]error{}}
}

// Fail makes the next call of a verb fail.
func (d *Images) Fail(verb string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[verb] = err
}

// Put has an image be there; an empty id or time is filled in. It returns the id.
func (d *Images) Put(i daemon.Image, data string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.ID == "" {
		i.ID = uuid.NewString()
	}
	if i.Metadata == nil {
		i.Metadata = map[string]string{}
	}
	if i.CreatedAt.IsZero() {
		i.CreatedAt = d.tick()
	}
	if i.UpdatedAt.IsZero() {
		i.UpdatedAt = i.CreatedAt
	}
	d.images[i.ID] = &kept{Image: i, data: []byte(data)}
	return i.ID
}

// Peek is an image as it is, and its bytes; false when there is none.
func (d *Images) Peek(id string) (daemon.Image, string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.images[id]
	if !ok {
		return daemon.Image{}, "", false
	}
	return k.Image, string(k.data), true
}

// Living are the ids of images that are not tombstones.
func (d *Images) Living() (ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, k := range d.images {
		if k.State != daemon.ImageDeleted && k.State != daemon.ImageError {
			ids = append(ids, id)
		}
	}
	return ids
}

// Settle ends what is under way on an image.
func (d *Images) Settle(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle(d.images[id])
}

func (d *Images) tick() time.Time {
	d.now = d.now.Add(time.Second)
	return d.now
}

// enter is the beginning of every verb.
func (d *Images) enter(ctx context.Context, c daemon.Caller, verb string) error {
	if ctx == nil || c.GUID == "" {
		d.T.Errorf("%s is called without a context or a caller", verb)
	}
	if ctx.Err() != nil {
		return &daemon.Error{Code: daemon.Unavailable, Message: "the caller is gone", Err: ctx.Err()}
	}
	if err := d.fail[verb]; err != nil {
		delete(d.fail, verb)
		return err
	}
	return nil
}

func no(code daemon.Code, format string, args ...any) error {
	return &daemon.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func sees(c daemon.Caller, i daemon.Image) bool {
	return c.HasRole(daemon.RoleAdmin) || i.Owner == c.GUID || i.Visibility != daemon.Private && !failed(i)
}

// failed says that an image is its owner's alone.
func failed(i daemon.Image) bool { return i.State == daemon.ImageError || i.Cause != "" }

// of finds an image for a caller who wants to change it.
func (d *Images) of(c daemon.Caller, id string) (*kept, error) {
	k, ok := d.images[id]
	if !ok || !sees(c, k.Image) {
		return nil, no(daemon.NotFound, "no image %s", id)
	}
	if k.Owner != c.GUID && !c.HasRole(daemon.RoleAdmin) {
		return nil, no(daemon.Forbidden, "image %s is not yours", id)
	}
	switch k.State {
	case daemon.ImageDeletePending:
		return nil, no(daemon.Gone, "image %s is deleted", id)
	case daemon.ImageDeleted:
		return nil, &daemon.Error{Code: daemon.Gone, Message: "image " + id + " is deleted", Err: daemon.ErrPurged}
	}
	return k, nil
}

func (d *Images) named(name, but string) bool {
	for id, k := range d.images {
		if id != but && name != "" && k.Name == name && k.State != daemon.ImageDeleted && k.State != daemon.ImageError {
			return true
		}
	}
	return false
}

func (d *Images) begin(k *kept) daemon.Operation {
	op := &daemon.Operation{ID: uuid.NewString(), Target: k.ID, State: daemon.OperationRunning}
	d.ops[op.ID], k.busy = op, op.ID
	if !d.Slow {
		d.settle(k)
	}
	return *op
}

func (d *Images) settle(k *kept) {
	op := d.ops[k.busy]
	k.busy, k.UpdatedAt = "", d.tick()
	found := "raw"
	if bytes.HasPrefix(k.data, []byte("QFI")) {
		found = "qcow2"
	}
	if bytes.HasPrefix(k.data, []byte("BAD")) || k.Format != "" && k.Format != found {
		op.State, op.Code, op.Cause = daemon.OperationFailed, daemon.Invalid, "the bytes are not what was said"
		k.State, k.Cause, k.Name, k.DeletedAt = daemon.ImageError, op.Cause, "", k.UpdatedAt
		return
	}
	op.State = daemon.OperationSucceeded
	k.State, k.Format, k.Digest = daemon.ImageActive, found, fmt.Sprintf("sha256:%x", sha256.Sum256(k.data))
	k.FileBytes, k.VirtualBytes = int64(len(k.data)), int64(len(k.data))
}

// AddImage is the verb.
func (d *Images) AddImage(ctx context.Context, c daemon.Caller, n daemon.NewImage) (daemon.Image, daemon.Operation, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "AddImage"); err != nil {
		return daemon.Image{}, daemon.Operation{}, err
	}
	if n.Path != "" || n.URL != "" && n.Bytes != 0 || n.Format != "" && n.Format != "raw" && n.Format != "qcow2" {
		d.T.Errorf("AddImage of %+v", n)
	}
	if n.Visibility == "" {
		n.Visibility = daemon.Private
	}
	if n.ID == "" {
		n.ID = uuid.NewString()
	}
	i := daemon.Image{
		ID: n.ID, Name: n.Name, Description: n.Description, State: daemon.ImagePending, Visibility: n.Visibility, Protected: n.Protected,
		Owner: c.GUID, Format: n.Format, MinDiskGB: n.MinDiskGB, MinRAMMB: n.MinRAMMB, Metadata: maps.Clone(n.Metadata),
	}
	if i.Metadata == nil {
		i.Metadata = map[string]string{}
	}
	if _, taken := d.images[n.ID]; taken || d.named(n.Name, "") {
		return i, daemon.Operation{}, no(daemon.Conflict, "there is an image of that name or id")
	}
	if err := check(c, i); err != nil {
		return i, daemon.Operation{}, err
	}
	i.CreatedAt = d.tick()
	i.UpdatedAt = i.CreatedAt
	k := &kept{Image: i}
	d.images[i.ID] = k
	if n.URL == "" {
		return i, daemon.Operation{}, nil
	}
	op := d.begin(k)
	return i, op, nil
}

func check(c daemon.Caller, i daemon.Image) error {
	switch {
	case len([]rune(i.Name)) > 255, len(i.Description) > daemon.MaxImageDescription, i.MinDiskGB < 0, i.MinRAMMB < 0,
		i.MinDiskGB > daemon.MaxImageMinDisk, i.MinRAMMB > daemon.MaxImageMinRAM:
		return no(daemon.Invalid, "a field of the image is out of bounds")
	case i.Visibility == daemon.Public && !c.HasRole(daemon.RoleAdmin):
		return no(daemon.Forbidden, "public images are for administrators")
	case len(i.Metadata) > daemon.MaxMetadataItems:
		return no(daemon.OverQuota, "the limit of %d metadata items is exceeded", daemon.MaxMetadataItems)
	}
	together := 0
	for key, value := range i.Metadata {
		if together += len(key) + len(value); together > daemon.MaxMetadataBytes {
			return no(daemon.OverQuota, "the limit of %d bytes of metadata is exceeded", daemon.MaxMetadataBytes)
		}
		if n := len([]rune(key)); n < 1 || n > daemon.MaxMetadataKey || len(value) > daemon.MaxMetadataValue {
			return no(daemon.Invalid, "a metadata item is out of bounds")
		}
	}
	return nil
}

// AppendImage is the verb.
func (d *Images) AppendImage(ctx context.Context, c daemon.Caller, id string, offset int64, r io.Reader) (daemon.ImageUpload, error) {
	d.mu.Lock()
	k, err := d.of(c, id)
	if failed := d.enter(ctx, c, "AppendImage"); failed != nil {
		err = failed
	}
	if err == nil && (k.State != daemon.ImagePending || k.busy != "") {
		err = no(daemon.Conflict, "image %s awaits no bytes", id)
	}
	d.mu.Unlock() // bytes take their time, and the image is seen meanwhile
	if err != nil {
		return daemon.ImageUpload{}, err
	}
	data, failed := io.ReadAll(r)
	d.mu.Lock()
	defer d.mu.Unlock()
	if offset != -1 {
		d.T.Errorf("AppendImage at %d", offset)
	}
	k.data, k.Arrived = data, len(data) > 0
	if failed != nil {
		return daemon.ImageUpload{Received: int64(len(data)), Bytes: -1}, &daemon.Error{Code: daemon.Internal, Message: "cut", Err: failed}
	}
	return daemon.ImageUpload{Received: int64(len(data)), Bytes: -1}, nil
}

// FinishImage is the verb.
func (d *Images) FinishImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "FinishImage"); err != nil {
		return daemon.Operation{}, err
	}
	k, err := d.of(c, id)
	if err != nil {
		return daemon.Operation{}, err
	}
	if k.State != daemon.ImagePending || k.busy != "" {
		return daemon.Operation{}, no(daemon.Conflict, "image %s awaits no bytes", id)
	}
	return d.begin(k), nil
}

// WaitOperation is the verb; it does not wait for what is slow.
func (d *Images) WaitOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "WaitOperation"); err != nil {
		return daemon.Operation{}, err
	}
	op, ok := d.ops[id]
	if !ok {
		return daemon.Operation{}, no(daemon.NotFound, "no operation %s", id)
	}
	return *op, nil
}

// Image is the verb.
func (d *Images) Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "Image"); err != nil {
		return daemon.Image{}, err
	}
	k, ok := d.images[id]
	if !ok || !sees(c, k.Image) {
		return daemon.Image{}, no(daemon.NotFound, "no image %s", id)
	}
	return k.Image, nil
}

// OpenImage is the verb.
func (d *Images) OpenImage(ctx context.Context, c daemon.Caller, id string) (*os.File, daemon.Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "OpenImage"); err != nil {
		return nil, daemon.Image{}, err
	}
	k, ok := d.images[id]
	if !ok || !sees(c, k.Image) {
		return nil, daemon.Image{}, no(daemon.NotFound, "no image %s", id)
	}
	if k.State != daemon.ImageActive {
		return nil, k.Image, no(daemon.Conflict, "image %s is %s", id, k.State)
	}
	f, err := os.CreateTemp(d.T.TempDir(), "image")
	if err != nil {
		d.T.Fatal(err)
	}
	if _, err := f.Write(k.data); err != nil {
		d.T.Fatal(err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, k.Image, err
}

// SetImage is the verb.
func (d *Images) SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "SetImage"); err != nil {
		return daemon.Image{}, err
	}
	k, err := d.of(c, id)
	if err != nil {
		return daemon.Image{}, err
	}
	if k.State != daemon.ImageActive {
		return daemon.Image{}, no(daemon.Conflict, "image %s is %s", id, k.State)
	}
	i := k.Image
	i.Metadata = maps.Clone(i.Metadata)
	if ch.ReplaceMetadata {
		clear(i.Metadata)
	}
	for _, key := range ch.RemoveMetadata {
		if _, ok := i.Metadata[key]; !ok && ch.MustRemove {
			return i, no(daemon.NotFound, "no item %q", key)
		}
		delete(i.Metadata, key)
	}
	maps.Copy(i.Metadata, ch.SetMetadata)
	set(&i.Name, ch.Name)
	set(&i.Description, ch.Description)
	set(&i.Protected, ch.Protected)
	set(&i.MinDiskGB, ch.MinDiskGB)
	set(&i.MinRAMMB, ch.MinRAMMB)
	was := i.Visibility
	set(&i.Visibility, ch.Visibility)
	if d.named(i.Name, id) {
		return i, no(daemon.Conflict, "there is an image named %q", i.Name)
	}
	if i.Visibility == was && was == daemon.Public {
		c.Roles = append(c.Roles, daemon.RoleAdmin) // it need not become what it is
	}
	if err := check(c, i); err != nil {
		return i, err
	}
	i.UpdatedAt = d.tick()
	k.Image = i
	return i, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// RequestImageDelete is the verb.
func (d *Images) RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "RequestImageDelete"); err != nil {
		return daemon.Image{}, err
	}
	k, err := d.of(c, id)
	if err != nil {
		return daemon.Image{}, err
	}
	switch {
	case k.Protected && k.State != daemon.ImagePending:
		return k.Image, no(daemon.Forbidden, "image %s is protected", id)
	case k.State == daemon.ImagePending && k.busy != "":
		return k.Image, no(daemon.Conflict, "image %s is %s", id, k.State)
	case k.State == daemon.ImageActive:
		k.State, k.Metadata = daemon.ImageDeletePending, map[string]string{}
	default:
		k.State, k.Name, k.Metadata, k.data = daemon.ImageDeleted, "", map[string]string{}, nil
	}
	k.UpdatedAt = d.tick()
	return k.Image, nil
}
