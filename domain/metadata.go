package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
)

// Our element in a domain's and in the network's metadata. The URI is what makes a domain ours: it must never
// change, or running domains would turn into strangers.
const (
	metadataURI    = "https://github.com/capsuled/capsuled/domain/1"
	metadataPrefix = "capsuled"
)

// mark is what we write into a domain's metadata.
type mark struct {
	XMLName xml.Name    `xml:"capsuled:domain"`
	NS      string      `xml:"xmlns:capsuled,attr"`
	Record  string      `xml:"capsuled:record"`
	Hash    string      `xml:"capsuled:spec"`
	Labels  []markLabel `xml:"capsuled:label"`
}

type markLabel struct {
	Name  string `xml:"name,attr"`
	Value string `xml:",chardata"`
}

// identity is the same element read back, whatever prefix it came with.
type identity struct {
	Record string          `xml:"record"`
	Hash   string          `xml:"spec"`
	Labels []identityLabel `xml:"label"`
}

type identityLabel markLabel

func (i identity) label(name string) string {
	for _, l := range i.Labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// marshalMark makes the metadata of s: labels sorted, so that equal specs give equal bytes.
func marshalMark(s Spec) (string, error) {
	m := mark{NS: metadataURI, Record: s.Record, Hash: SpecHash(s)}
	for _, k := range sortedKeys(s.Labels) {
		m.Labels = append(m.Labels, markLabel{Name: k, Value: s.Labels[k]})
	}
	out, err := xml.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("domain: metadata of %s: %w", s.Name, err)
	}
	return string(out), nil
}

func parseIdentity(doc string) (identity, error) {
	var i identity
	if err := xml.Unmarshal([]byte(doc), &i); err != nil {
		return identity{}, fmt.Errorf("domain: metadata: %w", err)
	}
	return i, nil
}

// SpecHash is a stable fingerprint of a spec, "sha256:" and 64 hex digits: equal specs have equal hashes, in
// this version and the next. It covers everything but the console's password: the hash stands in the domain's
// metadata, which any local user may read through libvirt's read-only socket, and everything else that goes
// into it stands beside it, so that eight characters could be guessed offline.
func SpecHash(s Spec) string {
	s.VNC.Password = ""
	if len(s.Labels) == 0 {
		s.Labels = nil
	}
	doc, err := json.Marshal(s) // sorts map keys
	if err != nil {
		panic(err) // a Spec has no field that JSON cannot hold
	}
	sum := sha256.Sum256(doc)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
