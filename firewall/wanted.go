package firewall

import (
	"maps"
	"slices"
)

// wanted is all that should be: the bindings by tap, and the policies that they may name. It is not changed once
// others have seen it; a change makes another.
type wanted struct {
	bindings map[string]Binding
	policies loadedSet
}

func (w wanted) with(b Binding) wanted {
	w.bindings = maps.Clone(w.bindings)
	w.bindings[b.Tap] = b
	return w
}

func (w wanted) without(tap string) wanted {
	w.bindings = maps.Clone(w.bindings)
	delete(w.bindings, tap)
	return w
}

// all are the bindings in an order that does not depend on how they came.
func (w wanted) all() []Binding { return slices.SortedFunc(maps.Values(w.bindings), byTap) }

// forwarded says whether the ssh port of a binding leads to it.
func (w wanted) forwarded(b Binding) bool { return b.SSHPort != 0 && w.policies[b.Policy].SSH }

// same says whether a tap has the same in the kernel by w and by other: its binding, and what its policy says.
func (w wanted) same(tap string, other wanted) bool {
	b, had := w.bindings[tap]
	next, has := other.bindings[tap]
	return had == has && b.equal(next) && w.policies[b.Policy].print == other.policies[next.Policy].print
}

// shuts says whether a tap has to be shut, and its connections cut, on the way from w to next: whatever changes of
// a binding that is open may take something away from it.
func (w wanted) shuts(tap string, next wanted) bool {
	return w.bindings[tap].Policy != Closed && !w.same(tap, next)
}

// equal says whether the kernel has the same by both.
func (w wanted) equal(other wanted) bool {
	if len(w.bindings) != len(other.bindings) || !maps.EqualFunc(w.policies, other.policies, func(a, b loaded) bool { return a.print == b.print }) {
		return false
	}
	for tap := range w.bindings {
		if !w.same(tap, other) {
			return false
		}
	}
	return true
}
