package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// Bounds of a metadata definition. Lengths are in characters, as the Glance API has them.
const (
	MaxMetadefName        = 80      // of a namespace, a resource type, a prefix, a property, an object
	MaxMetadefDescription = 500     // of a namespace
	MaxMetadefTypes       = 64      // resource types of one namespace
	MaxMetadefBody        = 1 << 17 // bytes of the properties and the objects together
)

const (
	opMetadefPut    = "metadef-put"
	opMetadefDelete = "metadef-delete"
)

// Metadef says which properties images, volumes and the like may have, and what they mean: one namespace of the
// catalogue. It binds nobody; dashboards and command lines show it.
type Metadef struct {
	Namespace     string // such as "OS::Compute::Libvirt"; unique
	DisplayName   string
	Description   string
	Visibility    Visibility // Public, or Private: for its owner and the administrators; "" is Private
	Protected     bool       // it cannot be deleted
	Owner         string     // guid; "" is who writes it first, and that stays
	ResourceTypes []MetadefResource
	Properties    json.RawMessage // object: name -> definition; empty means {}
	Objects       json.RawMessage // array of definitions; empty means []
	CreatedAt     time.Time       // of the daemon's making, as UpdatedAt
	UpdatedAt     time.Time
}

// MetadefResource says what a namespace's properties are for, and what their names begin with there.
type MetadefResource struct {
	Name   string `json:"name"` // such as "OS::Glance::Image"
	Prefix string `json:"prefix,omitempty"`
	Target string `json:"properties_target,omitempty"`
}

// Metadefs lists the namespaces that are public or the caller's own, for an administrator all, in the order of their
// names; with a resource type those alone that are for it.
func (d *Daemon) Metadefs(ctx context.Context, c Caller, resourceType string) ([]Metadef, error) {
	if c.GUID == "" {
		return nil, errorf(Unauthorized, "who asks is not known")
	}
	var records []store.Metadef
	if err := d.view(ctx, func(tx *store.Tx) (err error) { records, err = tx.Metadefs(); return err }); err != nil {
		return nil, err
	}
	out := make([]Metadef, 0, len(records))
	for _, r := range records {
		if r.Visibility != Public && r.Owner != c.GUID && !c.admin() {
			continue
		}
		m, err := publicMetadef(r)
		if err != nil {
			return nil, classify(err)
		}
		if resourceType == "" || slices.ContainsFunc(m.ResourceTypes, func(t MetadefResource) bool { return t.Name == resourceType }) {
			out = append(out, m)
		}
	}
	return out, nil
}

// AddMetadef writes a namespace that is not there; Conflict when it is. It is for administrators.
func (d *Daemon) AddMetadef(ctx context.Context, c Caller, m Metadef) error {
	return d.writeMetadef(ctx, c, m, (*store.Tx).InsertMetadef)
}

// PutMetadef writes a namespace, or writes it over. It is for administrators.
func (d *Daemon) PutMetadef(ctx context.Context, c Caller, m Metadef) error {
	return d.writeMetadef(ctx, c, m, (*store.Tx).PutMetadef)
}

func (d *Daemon) writeMetadef(ctx context.Context, c Caller, m Metadef, write func(*store.Tx, store.Metadef) error) (err error) {
	defer d.refused(ctx, c, opMetadefPut, m.Namespace, &err)
	if err := mayDefine(c); err != nil {
		return err
	}
	if m.Owner == "" {
		m.Owner = c.GUID
	}
	record, err := m.record(time.Now())
	if err != nil {
		return err
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		if err := write(tx, record); errors.Is(err, store.ErrTaken) {
			return errorf(Conflict, "there is a namespace %q: change it, or choose another name", clip(m.Namespace))
		} else if err != nil {
			return err
		}
		return tx.Audit(auditRow(c.GUID, c.From, c.Request, opMetadefPut, m.Namespace, "done", ""))
	})
}

// DeleteMetadef removes a namespace that is not protected. It is for administrators.
func (d *Daemon) DeleteMetadef(ctx context.Context, c Caller, namespace string) (err error) {
	defer d.refused(ctx, c, opMetadefDelete, namespace, &err)
	if err := mayDefine(c); err != nil {
		return err
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		m, err := tx.Metadef(namespace)
		if err != nil {
			return missing(err, "no namespace %q", clip(namespace))
		}
		if m.Protected {
			return errorf(Forbidden, "namespace %q is protected: take the protection off first", clip(namespace))
		}
		return errors.Join(tx.DeleteMetadef(namespace),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opMetadefDelete, namespace, "done", "")))
	})
}

func mayDefine(c Caller) error {
	if c.GUID == "" {
		return errorf(Unauthorized, "who asks is not known")
	}
	if !c.admin() {
		return errorf(Forbidden, "metadata definitions are written by administrators")
	}
	return nil
}

// record checks a definition.
func (m Metadef) record(now time.Time) (r store.Metadef, err error) {
	for _, err := range []error{
		text("namespace", m.Namespace, 1, MaxMetadefName, "printable text on one line", lineRune),
		text("display_name", m.DisplayName, 0, MaxMetadefName, "printable text on one line", lineRune),
		text("description", m.Description, 0, MaxMetadefDescription, "printable text", textRune),
	} {
		if err != nil {
			return r, err
		}
	}
	if strings.Contains(m.Namespace, "/") { // it is a segment of paths
		return r, errorf(Invalid, "namespace %q has a slash: its parts are joined with '::'", clip(m.Namespace))
	}
	if m.Visibility == "" {
		m.Visibility = Private
	}
	if m.Visibility != Public && m.Visibility != Private {
		return r, errorf(Invalid, "visibility %q of a namespace: it must be public or private", clip(string(m.Visibility)))
	}
	if err := checkResources(m.ResourceTypes); err != nil {
		return r, err
	}
	if m.Properties, m.Objects, err = checkDefinitions(m.Properties, m.Objects); err != nil {
		return r, err
	}
	return store.Metadef{
		Namespace: m.Namespace, DisplayName: m.DisplayName, Description: m.Description, Visibility: m.Visibility, Protected: m.Protected,
		Owner: m.Owner, ResourceTypes: encode(m.ResourceTypes), Properties: string(m.Properties), Objects: string(m.Objects),
		CreatedAt: now, UpdatedAt: now,
	}, nil
}

func checkResources(types []MetadefResource) error {
	if len(types) > MaxMetadefTypes {
		return errorf(Invalid, "a namespace has %d resource types: it may have %d", len(types), MaxMetadefTypes)
	}
	seen := map[string]bool{}
	for _, t := range types {
		for _, err := range []error{
			text("the name of a resource type", t.Name, 1, MaxMetadefName, "printable text on one line", lineRune),
			text("prefix", t.Prefix, 0, MaxMetadefName, "printable text on one line", lineRune),
			text("properties_target", t.Target, 0, MaxMetadefName, "printable text on one line", lineRune),
		} {
			if err != nil {
				return err
			}
		}
		if seen[t.Name] {
			return errorf(Invalid, "resource type %q is named twice", clip(t.Name))
		}
		seen[t.Name] = true
	}
	return nil
}

// definition is what every property and every object must say; what else it says is kept as it is.
type definition struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Type  string `json:"type"`
}

var definitionTypes = []string{"array", "boolean", "integer", "number", "object", "string"}

func checkDefinitions(properties, objects json.RawMessage) (json.RawMessage, json.RawMessage, error) {
	if len(properties) == 0 {
		properties = json.RawMessage("{}")
	}
	if len(objects) == 0 {
		objects = json.RawMessage("[]")
	}
	if len(properties)+len(objects) > MaxMetadefBody {
		return nil, nil, errorf(Invalid, "the properties and objects have %d bytes: they may have %d", len(properties)+len(objects), MaxMetadefBody)
	}
	var defined map[string]definition
	if err := json.Unmarshal(properties, &defined); err != nil || defined == nil {
		return nil, nil, &Error{Code: Invalid, Message: "properties must be an object of definitions, each with a title and a type", Err: err}
	}
	for name, p := range defined {
		if err := text("the name of a property", name, 1, MaxMetadefName, "printable text on one line", lineRune); err != nil {
			return nil, nil, err
		}
		if p.Title == "" || !slices.Contains(definitionTypes, p.Type) {
			return nil, nil, errorf(Invalid, "property %q must have a title, and a type of %s", clip(name), strings.Join(definitionTypes, ", "))
		}
	}
	var named []definition
	if err := json.Unmarshal(objects, &named); err != nil || named == nil {
		return nil, nil, &Error{Code: Invalid, Message: "objects must be an array of definitions, each with a name", Err: err}
	}
	for _, o := range named {
		if err := text("the name of an object", o.Name, 1, MaxMetadefName, "printable text on one line", lineRune); err != nil {
			return nil, nil, err
		}
	}
	return properties, objects, nil
}

func publicMetadef(r store.Metadef) (Metadef, error) {
	m := Metadef{
		Namespace: r.Namespace, DisplayName: r.DisplayName, Description: r.Description, Visibility: r.Visibility, Protected: r.Protected,
		Owner: r.Owner, Properties: json.RawMessage(r.Properties), Objects: json.RawMessage(r.Objects),
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	return m, json.Unmarshal([]byte(r.ResourceTypes), &m.ResourceTypes)
}
