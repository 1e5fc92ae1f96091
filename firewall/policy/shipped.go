package policy

import (
	"embed"
	"fmt"
	"slices"
	"sync"
)

// The names of the policies that a host has. Maintenance may hold what its file says; the others are for while
// protected data is attached, and must be Secure.
const (
	Maintenance = "maintenance"
	Secure      = "secure"       // demonstration, and research
	SecureFull  = "secure-full"  // research on the full corpus
	SecureAdmin = "secure-admin" // review of results
)

var shippedNames = []string{Maintenance, Secure, SecureFull, SecureAdmin}

// ShippedNames are the names of the policies that a host has, each of which is shipped.
func ShippedNames() []string { return slices.Clone(shippedNames) }

//go:embed shipped/*.toml
var shippedFiles embed.FS

// Shipped is the policy of a name as it is shipped, for hosts whose operator wrote none. The secure ones let nothing
// pass.
func Shipped(name string) (Policy, bool) {
	p, ok := shipped()[name]
	return p, ok
}

var shipped = sync.OnceValue(func() map[string]Policy {
	all := map[string]Policy{}
	for _, name := range shippedNames {
		source := "shipped/" + name + ".toml"
		text, err := shippedFiles.ReadFile(source)
		if err != nil {
			panic(fmt.Sprintf("policy: built without %s: %v", source, err))
		}
		p, err := ParseTOML(source, text)
		if err != nil {
			panic(fmt.Sprintf("policy: built with faults: %v", err))
		}
		all[name] = p
	}
	return all
})
