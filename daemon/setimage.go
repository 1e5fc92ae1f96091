package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/daemon/store"
)

const opImageSet = "image-set"

// SetImage changes an ACTIVE image, and is the only way to: its owner and administrators may. One transaction reads,
// changes and writes, so no concurrent change is lost. What is not among its items of metadata afterwards, or too much
// of it, is refused as a whole.
func (d *Daemon) SetImage(ctx context.Context, c Caller, id string, ch ImageChange) (v Image, err error) {
	defer d.refused(ctx, c, opImageSet, id, &err)
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := ownImage(tx, c, id)
		if err != nil {
			return err
		}
		if err := activeImage(i); err != nil {
			return err
		}
		before := i
		if i.Metadata, err = ch.metadata(i.Metadata); err != nil {
			return err
		}
		if err := ch.apply(&i); err != nil {
			return err
		}
		if i.Visibility == Public && !c.admin() && (before.Visibility != Public || i.Protected != before.Protected) {
			return errorf(Forbidden, "only an administrator makes an image public, or protects one that is")
		}
		if err := nameTaken(tx.PutImage(i, now()), i.Name); err != nil {
			return err
		}
		if i, err = tx.Image(id); err != nil {
			return err
		}
		v = publicImage(i)
		return tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageSet, id, "succeeded", ch.summary()))
	})
	if err != nil {
		return Image{}, err
	}
	return v, nil
}

// apply writes the fields that are given.
func (ch ImageChange) apply(i *store.Image) error {
	put(&i.Name, ch.Name)
	put(&i.Description, ch.Description)
	put(&i.Visibility, ch.Visibility)
	put(&i.Protected, ch.Protected)
	put(&i.MinDiskGB, ch.MinDiskGB)
	put(&i.MinRAMMB, ch.MinRAMMB)
	put(&i.LoginUser, ch.LoginUser)
	put(&i.LoginPassword, ch.LoginPassword)
	return errorOf(
		checkImageName(i.Name), checkImageDescription(i.Description), checkVisibility(i.Visibility),
		checkWhole("min_disk", i.MinDiskGB, MaxImageMinDisk), checkWhole("min_ram", i.MinRAMMB, MaxImageMinRAM),
		checkImageLogin(i.LoginUser, i.LoginPassword),
	)
}

func put[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// metadata is what the items become. Those of a record that has too many bytes may stay, and become fewer.
func (ch ImageChange) metadata(items map[string]string) (map[string]string, error) {
	after := map[string]string{}
	if !ch.ReplaceMetadata {
		maps.Copy(after, items)
	}
	for _, key := range ch.RemoveMetadata {
		if _, ok := after[key]; !ok && ch.MustRemove {
			return nil, errorf(NotFound, "there is no metadata item %q", clip(key))
		}
		delete(after, key)
	}
	// Those alone that come: what is there was let in before.
	if err := checkMetadata(ch.SetMetadata); err != nil {
		return nil, err
	}
	maps.Copy(after, ch.SetMetadata)
	if len(after) > MaxMetadataItems {
		return nil, errorf(OverQuota, "the quota of metadata items is exceeded: there would be %d, and %d are allowed", len(after), MaxMetadataItems)
	}
	return after, checkMetadataBytes(after, max(MaxMetadataBytes, metadataBytes(items)))
}

// summary names what was changed, for the audit trail: no values, one of them is a password.
func (ch ImageChange) summary() string {
	var words []string
	for name, given := range map[string]bool{
		"name": ch.Name != nil, "description": ch.Description != nil, "visibility": ch.Visibility != nil, "protected": ch.Protected != nil,
		"min_disk": ch.MinDiskGB != nil, "min_ram": ch.MinRAMMB != nil, "login_user": ch.LoginUser != nil, "login_password": ch.LoginPassword != nil,
	} {
		if given {
			words = append(words, name)
		}
	}
	if n := len(ch.SetMetadata); n > 0 || ch.ReplaceMetadata {
		words = append(words, fmt.Sprintf("metadata: %d set", n))
	}
	if n := len(ch.RemoveMetadata); n > 0 {
		words = append(words, fmt.Sprintf("metadata: %d removed", n))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// ImageNameFree is nil when an image could have that name now, and a Conflict when another has it.
func (d *Daemon) ImageNameFree(ctx context.Context, c Caller, name string) error {
	if c.GUID == "" {
		return errorf(Unauthorized, "who asks is not known")
	}
	if err := checkImageName(name); err != nil {
		return err
	}
	return d.view(ctx, func(tx *store.Tx) error {
		_, err := tx.ImageNamed(name)
		if err == nil {
			return errorf(Conflict, "there is an image named %q: choose another name", name)
		}
		if missing(err, "") == err {
			return err
		}
		return nil
	})
}
