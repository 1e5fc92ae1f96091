// Package imageservice is what the image service's own dialect (Glance) and that of the dashboard over it (Horizon) say
// alike: its words, its statuses, its times, and how a page is filled that only some images go into.
package imageservice

import (
	"net/http"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// statuses are the image service's. What is on its way out is gone there.
var statuses = map[daemon.Code]int{
	daemon.Invalid:      http.StatusBadRequest,
	daemon.Unauthorized: http.StatusUnauthorized,
	daemon.Forbidden:    http.StatusForbidden,
	daemon.NotFound:     http.StatusNotFound,
	daemon.Gone:         http.StatusNotFound,
	daemon.Conflict:     http.StatusConflict,
	daemon.Busy:         http.StatusConflict,
	daemon.OverQuota:    http.StatusRequestEntityTooLarge,
	daemon.Exhausted:    http.StatusRequestEntityTooLarge,
	daemon.Unsupported:  http.StatusNotImplemented,
	daemon.Unavailable:  http.StatusServiceUnavailable,
	daemon.Internal:     http.StatusInternalServerError,
}

// Status is the status of a refusal: its own, or that of its code.
func Status(no *dialect.Refusal) int {
	if no.Status != 0 {
		return no.Status
	}
	if status, ok := statuses[no.Code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// retryAfter is how many seconds a caller should wait before it asks again.
var retryAfter = map[daemon.Code]string{daemon.Busy: "1", daemon.Unavailable: "5"}

// Headers are those of a refusal.
func Headers(no *dialect.Refusal) http.Header {
	h := http.Header{}
	if after := retryAfter[no.Code]; after != "" {
		h.Set("Retry-After", after)
	}
	return h
}

// Word is the image service's word for the state of an image (images contract, section 3).
func Word(i *daemon.Image) string {
	if word := words[i.State]; word != "" {
		if i.State == daemon.ImagePending && i.Arrived {
			return "saving"
		}
		return word
	}
	return strings.ToLower(string(i.State))
}

var words = map[daemon.ImageState]string{
	daemon.ImagePending:       "queued",
	daemon.ImageActive:        "active",
	daemon.ImageDeletePending: "pending_delete",
	daemon.ImageDeleted:       "deleted",
	daemon.ImageError:         "killed",
}

// Stamp is a time as the image service writes it.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
