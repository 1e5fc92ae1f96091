package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
)

// longestPassword of a console: RFC 6143, section 7.2.2 makes a DES key of it.
const longestPassword = 8

// alphabet of generated passwords: nothing that a person mistakes for another when typing it into a VNC viewer.
const alphabet = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"

// generatePassword makes a console password of 46 bits, all that the protocol's eight characters hold of this alphabet.
func generatePassword() (string, error) {
	var b strings.Builder
	for range longestPassword {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", fmt.Errorf("make a password: %w", err)
		}
		b.WriteByte(alphabet[i.Int64()])
	}
	return b.String(), nil
}

// maxSecret bounds what is read of a file that ought to hold a password.
const maxSecret = 4096

// readSecret reads one line. The newline that an editor left at its end is not part of it.
func readSecret(r io.Reader, name string) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if s == "" || len(raw) > maxSecret || strings.Contains(s, "\n") {
		return "", usagef("%s must hold the password, on one line", name)
	}
	return s, nil
}

// readSecretFile is readSecret of a file, with a warning when others can read it too.
func (a *app) readSecretFile(name string) (string, error) {
	a.warnExposed(name)
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	defer f.Close()
	return readSecret(f, name)
}

// consolePassword is the password for a new capsule, and whether it was made up here.
func (a *app) consolePassword(ctx context.Context, file string, stdin bool) (password string, made bool, err error) {
	switch {
	case file != "":
		password, err = a.readSecretFile(file)
	case stdin:
		password, err = interruptible(ctx, func() (string, error) { return readSecret(a.in, "standard input") })
	default:
		made = true
		password, err = generatePassword()
	}
	if err != nil {
		return "", false, err
	}
	// Said here as well as by the daemon: a password that is too long need not travel.
	outside := func(r rune) bool { return r < ' ' || r > '~' }
	if len(password) > longestPassword || strings.ContainsFunc(password, outside) {
		return "", false, usagef("a console password has 1 to %d printable ASCII characters", longestPassword)
	}
	return password, made, nil
}

// interruptible runs a read that no signal ends. When ctx ends first, the read is left to the end of the process.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-done:
		return r.text, r.err
	}
}

// confirm asks before things are destroyed. Without a terminal nobody can answer: then only yes will do.
func (a *app) confirm(ctx context.Context, yes bool, what string, which []candidate) error {
	if yes {
		return nil
	}
	if terminal(a.in) < 0 || terminal(a.err) < 0 {
		return usagef("deleting without a terminal to ask on needs --yes")
	}
	for _, c := range which {
		fmt.Fprintf(a.err, "  %s %s\n", printable(c.id), printable(strings.TrimSpace(c.name+" "+c.note)))
	}
	fmt.Fprintf(a.err, "Delete %d %s(s) for good? [y/N] ", len(which), what)
	answer, err := interruptible(ctx, func() (string, error) {
		text, err := bufio.NewReader(a.in).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return text, err
	})
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed: nothing was deleted")
}
