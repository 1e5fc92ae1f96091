package daemon

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// catalogue holds the definitions that a new host begins with: what libvirt can be told by an image's properties.
//
//go:embed catalogue.json
var catalogue []byte

// catalogueSetting remembers that a host had its catalogue, so that what an operator deletes stays away.
const catalogueSetting = "metadefs_seeded"

type catalogued struct {
	Namespace     string            `json:"namespace"`
	DisplayName   string            `json:"display_name"`
	Description   string            `json:"description"`
	ResourceTypes []MetadefResource `json:"resource_type_associations"`
	Properties    json.RawMessage   `json:"properties"`
}

// seedCatalogue writes the catalogue at a host's first start. It is no reason not to start: a host without room for it
// must still look after its capsules, and the next start tries again.
func (d *Daemon) seedCatalogue(ctx context.Context) {
	var seeded string
	err := d.store.View(ctx, func(tx *store.Tx) (err error) { seeded, err = tx.Setting(catalogueSetting); return err })
	if err == nil && seeded == "" {
		err = d.store.Update(ctx, writeCatalogue)
	}
	if err != nil && ctx.Err() == nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "the metadata definitions were not written", slog.String("error", err.Error()))
	}
}

func writeCatalogue(tx *store.Tx) error {
	var all []catalogued
	if err := json.Unmarshal(catalogue, &all); err != nil {
		return fmt.Errorf("daemon: catalogue: %w", err)
	}
	now := time.Now()
	for _, in := range all {
		r, err := Metadef{
			Namespace: in.Namespace, DisplayName: in.DisplayName, Description: in.Description, Visibility: Public, Owner: itself.GUID,
			ResourceTypes: in.ResourceTypes, Properties: in.Properties,
		}.record(now)
		if err != nil {
			return fmt.Errorf("daemon: catalogue: %s: %w", in.Namespace, err)
		}
		if err := tx.SeedMetadef(r); err != nil {
			return err
		}
	}
	return tx.PutSetting(catalogueSetting, now.UTC().Format(time.RFC3339))
}
