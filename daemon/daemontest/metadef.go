package daemontest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/capsuled/capsuled/daemon"
)

// Metadefs is the verb.
func (d *Images) Metadefs(ctx context.Context, c daemon.Caller, resourceType string) ([]daemon.Metadef, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "Metadefs"); err != nil {
		return nil, err
	}
	var out []daemon.Metadef
	for _, name := range slices.Sorted(maps.Keys(d.metadefs)) {
		m := d.metadefs[name]
		if m.Visibility != daemon.Public && m.Owner != c.GUID && !c.HasRole(daemon.RoleAdmin) {
			continue
		}
		if resourceType == "" || slices.ContainsFunc(m.ResourceTypes, func(t daemon.MetadefResource) bool { return t.Name == resourceType }) {
			out = append(out, m)
		}
	}
	return out, nil
}

// AddMetadef is the verb.
func (d *Images) AddMetadef(ctx context.Context, c daemon.Caller, m daemon.Metadef) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.metadefs[m.Namespace]; there {
		return no(daemon.Conflict, "there is a namespace %q", m.Namespace)
	}
	return d.put(ctx, c, m)
}

// PutMetadef is the verb.
func (d *Images) PutMetadef(ctx context.Context, c daemon.Caller, m daemon.Metadef) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.put(ctx, c, m)
}

func (d *Images) put(ctx context.Context, c daemon.Caller, m daemon.Metadef) error {
	if err := d.enter(ctx, c, "PutMetadef"); err != nil {
		return err
	}
	if !c.HasRole(daemon.RoleAdmin) {
		return no(daemon.Forbidden, "metadata definitions are for administrators")
	}
	if m.Namespace == "" || len(m.Namespace) > daemon.MaxMetadefName || m.Visibility != daemon.Public && m.Visibility != daemon.Private && m.Visibility != "" {
		return no(daemon.Invalid, "a field of the namespace is out of bounds")
	}
	if m.Properties == nil {
		m.Properties = json.RawMessage("{}")
	}
	if m.Objects == nil {
		m.Objects = json.RawMessage("[]")
	}
	m.CreatedAt = d.tick()
	m.UpdatedAt = m.CreatedAt
	if old, there := d.metadefs[m.Namespace]; there {
		m.CreatedAt, m.Owner = old.CreatedAt, old.Owner
	} else if m.Owner == "" {
		m.Owner = c.GUID
	}
	if m.Visibility == "" {
		m.Visibility = daemon.Private
	}
	d.metadefs[m.Namespace] = m
	return nil
}

// DeleteMetadef is the verb.
func (d *Images) DeleteMetadef(ctx context.Context, c daemon.Caller, namespace string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "DeleteMetadef"); err != nil {
		return err
	}
	if !c.HasRole(daemon.RoleAdmin) {
		return no(daemon.Forbidden, "metadata definitions are for administrators")
	}
	m, there := d.metadefs[namespace]
	if !there {
		return no(daemon.NotFound, "no namespace %q", namespace)
	}
	if m.Protected {
		return no(daemon.Forbidden, "namespace %q is protected", namespace)
	}
	delete(d.metadefs, namespace)
	return nil
}
