package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
)

// Bounds of an image record's texts, in characters.
const (
	MaxImageName        = 255 // images contract, section 7
	MaxImageDescription = 1024
	MaxImagePassword    = 128
	MaxImagePath        = 4096 // PATH_MAX
	MaxImageURL         = 2048 // bytes
)

// imageCharged are the states in which an image counts against its owner's quota.
var imageCharged = []ImageState{ImagePending, ImageActive}

// bringing is the argument of image-add and image-fetch: where the bytes come from.
type bringing struct{ Path, URL string }

// AddImage makes a record of an image, SHARE_PENDING, and begins to take its bytes in from a file of this host or from a
// URL; without either the operation is zero, and the bytes are awaited (AppendImage, FinishImage). It becomes ACTIVE once
// they are there, or an ERROR that says why they never came. Only a local caller may name a file: whoever can has it read
// by root. Only an administrator makes it public, or chooses its id; others may have as many as their quota allows.
//
// Invalid for what cannot be, Forbidden, OverQuota, Conflict when the name or the id is taken.
func (d *Daemon) AddImage(ctx context.Context, c Caller, n NewImage) (v Image, op Operation, err error) {
	defer d.refused(ctx, c, opImageAdd, n.Name, &err)
	if c.GUID == "" {
		return v, op, errorf(Unauthorized, "who asks is not known")
	}
	if n.Path != "" && !c.Local {
		return v, op, errorf(Forbidden, "an image can be added from a file of the host by its administrators alone, over the unix socket")
	}
	n.Visibility, n.ID = cmp.Or(n.Visibility, Private), strings.ToLower(n.ID)
	if n.ID != "" && !c.admin() {
		return v, op, errorf(Forbidden, "only an administrator chooses the id of an image")
	}
	if n.Visibility == Public && !c.admin() {
		return v, op, errorf(Forbidden, "only an administrator makes an image public")
	}
	if err := d.checkNewImage(n); err != nil {
		return v, op, err
	}
	if err := d.accepting(); err != nil {
		return v, op, err
	}
	image := store.Image{
		ID: cmp.Or(n.ID, uuid.NewString()), Name: n.Name, Description: n.Description, State: ImagePending, Visibility: n.Visibility, Protected: n.Protected,
		MinDiskGB: n.MinDiskGB, MinRAMMB: n.MinRAMMB, Metadata: maps.Clone(n.Metadata), AskedFormat: n.Format, AskedDigest: n.Digest, AskedBytes: -1,
		Owner: c.GUID, Charged: !c.admin(), LoginUser: n.LoginUser, LoginPassword: n.LoginPassword, CreatedAt: now(),
	}
	image.UpdatedAt = image.CreatedAt
	var entry store.Operation
	detail := "its bytes are awaited"
	switch {
	case n.Path != "":
		entry = d.newOperation(d.procedures[opImageAdd], c, image.ID, c.GUID, encode(bringing{Path: n.Path}))
		detail = "operation " + entry.ID + ", file " + clip(n.Path)
	case n.URL != "":
		entry = d.newOperation(d.procedures[opImageFetch], c, image.ID, c.GUID, encode(bringing{URL: n.URL}))
		detail = "operation " + entry.ID // the URL may be a secret
	case n.Bytes > 0:
		image.AskedBytes = n.Bytes
	}
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		if err := d.insertImage(tx, c, image); err != nil {
			return err
		}
		if entry.ID != "" {
			if err := tx.InsertOperation(entry); err != nil {
				return err
			}
		}
		return tx.Audit(auditRow(c.GUID, c.From, c.Request, cmp.Or(entry.Kind, opImageAdd), image.ID, "accepted", detail))
	})
	if err != nil {
		return v, op, err
	}
	if entry.ID == "" {
		return publicImage(image), op, nil
	}
	d.start(entry)
	return publicImage(image), public(entry, c), nil
}

// insertImage writes a new record within the quota of its owner, whose oldest tombstones make room for it.
func (d *Daemon) insertImage(tx *store.Tx, c Caller, i store.Image) error {
	if err := tx.PutUser(c.GUID, c.Email); err != nil {
		return err
	}
	if i.Charged {
		used, err := tx.Usage(c.GUID, imageCharged...)
		if err != nil {
			return err
		}
		if used.Images+1 > d.opt.Quota.Images {
			return errorf(OverQuota, "your quota of images is %d, and you have %d: delete one first", d.opt.Quota.Images, used.Images)
		}
	}
	if _, err := tx.ImageEver(i.ID); err == nil {
		return errorf(Conflict, "there is, or was, an image with the id %s", i.ID)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := nameTaken(tx.InsertImage(i), i.Name); err != nil {
		return err
	}
	return tx.ForgetImages(c.GUID, MaxTombstones)
}

func nameTaken(err error, name string) error {
	if errors.Is(err, store.ErrTaken) {
		return errorf(Conflict, "there is an image named %q: choose another name, or delete that one", name)
	}
	return err
}

// now is the time of a record: what comes back from the disk is not earlier.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func (d *Daemon) checkNewImage(n NewImage) error {
	if err := errorOf(
		checkImageName(n.Name), checkImageDescription(n.Description), checkVisibility(n.Visibility),
		checkWhole("min_disk", n.MinDiskGB, MaxImageMinDisk), checkWhole("min_ram", n.MinRAMMB, MaxImageMinRAM),
		checkMetadata(n.Metadata), checkMetadataBytes(n.Metadata, MaxMetadataBytes), checkImageLogin(n.LoginUser, n.LoginPassword),
	); err != nil {
		return err
	}
	switch {
	case n.ID != "" && !uuidPattern.MatchString(n.ID):
		return errorf(Invalid, "id %q is not a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10", clip(n.ID))
	case n.Format != "" && n.Format != "raw" && n.Format != "qcow2":
		return errorf(Invalid, "format %q is not taken in: it must be raw or qcow2", clip(n.Format))
	case n.Digest != "" && !digestPattern.MatchString(n.Digest):
		return errorf(Invalid, "digest %q is not \"sha256:\" and 64 lower-case hex digits", clip(n.Digest))
	case n.Bytes < -1:
		return errorf(Invalid, "the number of bytes is %d: it must be known to be positive, or be -1", n.Bytes)
	case n.Path != "" && n.URL != "":
		return errorf(Invalid, "an image comes from a file or from a URL, not from both")
	case n.Path != "" && (!filepath.IsAbs(n.Path) || len(n.Path) > MaxImagePath || strings.ContainsRune(n.Path, 0) || !utf8.ValidString(n.Path)):
		return errorf(Invalid, "path %q is not an absolute path on the host", clip(n.Path))
	case n.URL != "" && (len(n.URL) > MaxImageURL || !utf8.ValidString(n.URL) || strings.ContainsFunc(n.URL, func(r rune) bool { return !lineRune(r) })):
		return errorf(Invalid, "the URL is longer than %d bytes, or not printable text", MaxImageURL)
	case n.URL != "" && len(d.opt.FetchRules.Allow) == 0:
		return errorf(Invalid, "images are not fetched from URLs here: no host is allowed")
	}
	return nil
}

var (
	uuidPattern   = regexp.MustCompile(`\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z`)
	digestPattern = regexp.MustCompile(`\Asha256:[0-9a-f]{64}\z`)
)

// errorOf is the first that is an error.
func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkImageName(name string) error {
	if err := text("name", name, 0, MaxImageName, "printable text on one line", lineRune); err != nil {
		return err
	}
	if _, err := uuid.Parse(name); err == nil {
		return errorf(Invalid, "name %q looks like an image id: choose another", name)
	}
	return nil
}

func checkImageDescription(s string) error {
	return text("description", s, 0, MaxImageDescription, "printable text", textRune)
}

func checkImageLogin(user, password string) error {
	return errorOf(text("login_user", user, 0, MaxLoginUser, "a-z, A-Z, 0-9, '.', '_' and '-'", loginRune),
		text("login_password", password, 0, MaxImagePassword, "printable ASCII", asciiRune))
}

func checkVisibility(v Visibility) error {
	if !slices.Contains([]Visibility{Private, Public, Shared, Community}, v) {
		return errorf(Invalid, "visibility %q is unknown: it must be private, public, shared or community", clip(string(v)))
	}
	return nil
}

func checkWhole(name string, n, most int) error {
	if n < 0 || n > most {
		return errorf(Invalid, "%s is %d: it must be 0 to %d", name, n, most)
	}
	return nil
}

// checkMetadata holds items against the store rule of the images contract, section 7: what one dialect wrote is to be
// read by all, so what none could write is refused whoever sends it. The order of the keys makes the answer the same
// each time.
func checkMetadata(items map[string]string) error {
	if len(items) > MaxMetadataItems {
		return errorf(OverQuota, "the quota of metadata items is exceeded: there would be %d, and %d are allowed", len(items), MaxMetadataItems)
	}
	for _, key := range slices.Sorted(maps.Keys(items)) {
		if err := text("metadata key", key, 1, MaxMetadataKey, "text without control characters", metadataRune); err != nil {
			return err
		}
		value := items[key]
		if len(value) > MaxMetadataValue {
			return errorf(Invalid, "metadata item %q has %d bytes: %d are allowed", clip(key), len(value), MaxMetadataValue)
		}
		if err := text(fmt.Sprintf("metadata item %q", clip(key)), value, 0, MaxMetadataValue, "text without control characters", metadataRune); err != nil {
			return err
		}
	}
	return nil
}

func checkMetadataBytes(items map[string]string, most int) error {
	if n := metadataBytes(items); n > most {
		return errorf(OverQuota, "the quota of metadata is exceeded: its keys and values would have %d bytes, and %d are allowed", n, MaxMetadataBytes)
	}
	return nil
}

// metadataBytes is how many all keys and values have together.
func metadataBytes(items map[string]string) (n int) {
	for key, value := range items {
		n += len(key) + len(value)
	}
	return n
}

// metadataRune refuses the C0 controls but TAB, LF and CR.
func metadataRune(r rune) bool { return r >= ' ' || r == '\t' || r == '\n' || r == '\r' }
