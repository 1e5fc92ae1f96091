package keystone

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/capsuled/capsuled/daemon"
)

// User is one of those who may get a token for a password.
type User struct {
	Name    string // what is logged in with
	Hash    []byte // of the password, by bcrypt
	GUID    string
	Email   string // "" for none
	Project string // "" for none: then it is the GUID
	Roles   []string
}

// What a hash may cost, as the exponent: less is guessed too fast, more keeps everybody waiting.
const (
	minCost = 10
	maxCost = 14
)

// userRoles are those that a line may give. Another host of this one logs in by password as well: it must not have the secret of
// our tokens to make its own, since whoever has that can be anybody.
var userRoles = []string{daemon.RoleAdmin, daemon.RoleMetrics, daemon.RolePeer}

var namePattern = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\z`)

// ParseUsers reads a users' file: a line for each,
//
//	name:hash:guid:email:project:role,role
//
// where email, project and roles may be empty, and the hash is bcrypt's ("htpasswd -nbBC 12 name password" makes one).
// Empty lines, and those that begin with #, are skipped. An error names the line, and never a hash. That a guid, an
// email and a project are fit for a token is for the caller to check.
func ParseUsers(text []byte) ([]User, error) {
	var users []User
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		u, err := parseUser(line)
		if err == nil && seen[u.Name] {
			err = fmt.Errorf("%q is there twice", u.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		seen[u.Name] = true
		users = append(users, u)
	}
	return users, lines.Err()
}

func parseUser(line string) (User, error) {
	fields := strings.Split(line, ":")
	if !utf8.ValidString(line) || len(fields) != 6 {
		return User{}, fmt.Errorf("it must be name:hash:guid:email:project:role,role in UTF-8, and has %d fields", len(fields))
	}
	u := User{Name: fields[0], Hash: []byte(fields[1]), GUID: fields[2], Email: fields[3], Project: fields[4]}
	if !namePattern.MatchString(u.Name) {
		return User{}, fmt.Errorf("the name must be 1 to 64 of A-Z a-z 0-9 . _ @ + -, beginning with a letter or digit")
	}
	cost, err := bcrypt.Cost(u.Hash)
	// bcrypt takes what follows a hash as part of it; then no password would fit, and nobody would know why.
	if err != nil || len(u.Hash) != 60 {
		return User{}, fmt.Errorf("the hash of %q is not bcrypt's", u.Name)
	}
	if cost < minCost || cost > maxCost {
		return User{}, fmt.Errorf("the hash of %q has cost %d; %d to %d are allowed", u.Name, cost, minCost, maxCost)
	}
	if u.GUID == "" {
		return User{}, fmt.Errorf("%q has no guid", u.Name)
	}
	if fields[5] != "" {
		u.Roles = strings.Split(fields[5], ",")
	}
	for _, role := range u.Roles {
		if !slices.Contains(userRoles, role) {
			return User{}, fmt.Errorf("%q has the role %q; there are %s", u.Name, role, strings.Join(userRoles, ", "))
		}
	}
	return u, nil
}
