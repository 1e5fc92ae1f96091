package dialect_test

import (
	"testing"

	"github.com/capsuled/capsuled/api/dialect"
)

// A buffer is empty whoever had it before, has room for a page, and is nobody else's until it is given back.
func TestBuffer(t *testing.T) {
	var one, other dialect.Request
	a, b := append(one.Buffer(), "one"...), append(other.Buffer(), "other"...)
	if string(a) != "one" || string(b) != "other" || cap(a) < 100<<10 {
		t.Errorf("%q and %q, with room for %d", a, b, cap(a))
	}
	one.Done()
	one.Done()
	other.Done()
	if got := one.Buffer(); len(got) != 0 {
		t.Errorf("%q is left in the buffer", got)
	}
	first, second := append(new(dialect.Request).Buffer(), "first"...), append(new(dialect.Request).Buffer(), "second"...)
	if string(first) != "first" || string(second) != "second" {
		t.Errorf("a buffer was given back twice: %q, %q", first, second)
	}
}
