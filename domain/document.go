package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// node is one element of a document as it stands: the typed structs of libvirtxml drop what they do not know, and
// what is not known is what a look for strangers is for.
type node struct {
	name  string // with the prefix "qemu:" for QEMU's own namespace, and "foreign:" for any other
	attrs map[string]string
	kids  []*node
	text  string
}

// qemuNamespace is where libvirt lets arguments through to QEMU unchecked.
const qemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0"

// parseNode reads a document that libvirt made.
func parseNode(doc string) (*node, error) {
	d := xml.NewDecoder(strings.NewReader(doc))
	top := &node{}
	stack := []*node{top}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document: %w", err)
		}
		last := stack[len(stack)-1]
		switch t := token.(type) {
		case xml.StartElement:
			n := newNode(t)
			last.kids = append(last.kids, n)
			stack = append(stack, n)
		case xml.EndElement:
			last.text = strings.TrimSpace(last.text)
			stack = stack[:len(stack)-1]
		case xml.CharData:
			last.text += string(t)
		}
	}
	if len(top.kids) != 1 {
		return nil, fmt.Errorf("document: %d elements at the top, want 1", len(top.kids))
	}
	return top.kids[0], nil
}

func newNode(t xml.StartElement) *node {
	n := &node{name: t.Name.Local, attrs: map[string]string{}}
	switch t.Name.Space {
	case "":
	case qemuNamespace:
		n.name = "qemu:" + n.name
	default:
		n.name = "foreign:" + n.name
	}
	for _, a := range t.Attr {
		if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
			n.attrs[a.Name.Local] = a.Value
		}
	}
	return n
}

// kid is the first child of that name; nil when there is none.
func (n *node) kid(name string) *node {
	for _, k := range n.kids {
		if k.name == name {
			return k
		}
	}
	return nil
}

// at is the value at a path such as "target/@bus" or "model"; "" when there is none.
func (n *node) at(path string) string {
	for {
		step, rest, more := strings.Cut(path, "/")
		if attr, ok := strings.CutPrefix(step, "@"); ok {
			return n.attrs[attr]
		}
		if n = n.kid(step); n == nil {
			return ""
		}
		if !more {
			return n.text
		}
		path = rest
	}
}

// canon is the same text for the same element, whatever the order of attributes and the white space.
func (n *node) canon() string {
	var b strings.Builder
	b.WriteString("<" + n.name)
	for _, k := range slices.Sorted(maps.Keys(n.attrs)) {
		fmt.Fprintf(&b, " %s=%q", k, n.attrs[k])
	}
	fmt.Fprintf(&b, ">%q", n.text)
	for _, k := range n.kids {
		b.WriteString(k.canon())
	}
	b.WriteString("</>")
	return b.String()
}

// stillHash is the SHA-256 of a domain document without what its guest can change from within: it takes that out.
func (n *node) stillHash() string {
	if memory := n.kid("currentMemory"); memory != nil {
		memory.text = ""
	}
	if devices := n.kid("devices"); devices != nil {
		for _, k := range devices.kids {
			if target := k.kid("target"); k.name == "channel" && target != nil {
				delete(target.attrs, "state")
			}
		}
	}
	sum := sha256.Sum256([]byte(n.canon()))
	return hex.EncodeToString(sum[:])
}

// parts are a domain document's pieces that can be compared one by one: what stands beside the devices, and each
// device.
func (n *node) parts() map[string][]string {
	all := map[string][]string{}
	for _, k := range n.kids {
		if k.name != "devices" {
			all[k.name] = append(all[k.name], k.canon())
			continue
		}
		for _, d := range k.kids {
			all[d.name] = append(all[d.name], d.canon())
		}
	}
	return all
}

// differences names the parts in which two domain documents differ, but for those in except. Never a value: there
// are passwords in them.
func differences(a, b *node, except ...string) []string {
	pa, pb := a.parts(), b.parts()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(pa)) {
		if !slices.Contains(except, name) && !slices.Equal(pa[name], pb[name]) {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pb)) {
		if _, both := pa[name]; !both && !slices.Contains(except, name) {
			names = append(names, name)
		}
	}
	return names
}

// parseDomain reads a domain document into the typed struct, with devices that are never nil.
func parseDomain(doc string) (*libvirtxml.Domain, error) {
	var x libvirtxml.Domain
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	if x.Devices == nil {
		x.Devices = &libvirtxml.DomainDeviceList{}
	}
	return &x, nil
}
