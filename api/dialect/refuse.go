package dialect

import (
	"fmt"

	"github.com/capsuled/capsuled/daemon"
)

// Refuse is a refusal with a status of its own.
func Refuse(status int, code daemon.Code, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid is a refusal of what the caller sent.
func Invalid(format string, args ...any) *Refusal {
	return &Refusal{Code: daemon.Invalid, Message: fmt.Sprintf(format, args...)}
}
