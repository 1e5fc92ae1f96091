package client_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/capsuled/capsuled/api/wire"
)

// script is a daemon that answers from a list, the last answer for ever, and writes down what it was asked.
type script struct {
	mu      sync.Mutex
	answers []http.Handler
	calls   []string
}

func scripted(answers ...http.Handler) *script { return &script{answers: answers} }

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprintf("%s %s [%s] %s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), body))
	next := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.mu.Unlock()
	next.ServeHTTP(w, r)
}

// asked returns every call so far.
func (s *script) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// answer says the same to everybody. Header is names and values in turn.
func answer(status int, body string, header ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for pair := range slices.Chunk(header, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

// began answers as the daemon does to a call that began an operation.
func began(body string) http.Handler {
	return answer(http.StatusOK, body, wire.OperationHeader, "/v1/operations/op-1")
}

// state answers with an operation in this state.
func state(name, step string) http.Handler {
	return answer(http.StatusOK, fmt.Sprintf(`{"id":"op-1","state":%q,"step":%q}`, name, step))
}

// drop closes the connection without an answer, as a daemon that is killed does.
var drop = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
