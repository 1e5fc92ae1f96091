package api

import (
	"bytes"
	"fmt"
)

// The bounds of a secret, in bytes. HS256 with less than the lower can be guessed (RFC 7518, section 3.2).
const (
	minSecret = 32
	maxSecret = 4096
)

// openSecret reads the secret for the first time.
func openSecret(path string) (*privateFile[[]byte], error) {
	f := &privateFile[[]byte]{path: path, what: "token secret", most: maxSecret, check: checkPrivate, parse: parseSecret}
	_, err := f.read()
	return f, err
}

func parseSecret(text []byte) ([]byte, error) {
	// Editors and shells end a file with a newline; issuers do not sign with it.
	value := bytes.TrimRight(text, "\r\n")
	if len(value) < minSecret || len(value) > maxSecret {
		return nil, fmt.Errorf("%w: it must have %d to %d bytes, not %d", errSecret, minSecret, maxSecret, len(value))
	}
	return value, nil
}
