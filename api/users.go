package api

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/keystone"
)

// maxUsers is how many bytes of a users' file are read.
const maxUsers = 1 << 20

// newKeystone is the identity family: it gives out the tokens that every other door takes.
func newKeystone(opt Options, t *tokens) (dialect.Family, error) {
	life := opt.TokenLife
	if life == 0 {
		life = time.Hour
	}
	if life < 0 {
		return nil, fmt.Errorf("api: tokens cannot live for %v", life)
	}
	k := keystone.Options{
		Region: opt.Region, Cyclades: opt.CycladesCatalog,
		Verify: func(token string) (keystone.Token, error) {
			caller, c, err := t.read(token)
			if err != nil {
				return keystone.Token{}, err
			}
			said := keystone.Token{Caller: caller, Name: c.Subject, Expires: c.ExpiresAt.Time}
			if c.IssuedAt != nil {
				said.Issued = c.IssuedAt.Time
			}
			return said, nil
		},
		Issue: func(u keystone.User) (string, error) { return t.issue(claimsOf(u), life) },
	}
	if opt.UsersFile != "" {
		if t.secret == nil {
			return nil, errors.New("api: UsersFile needs SecretFile: tokens are signed with it")
		}
		f := &privateFile[[]keystone.User]{path: opt.UsersFile, what: "users", most: maxUsers, check: checkOwned, parse: parseUsers}
		if _, err := f.read(); err != nil {
			return nil, err
		}
		k.Users = f.read
	}
	return keystone.New(k), nil
}

func claimsOf(u keystone.User) claims {
	c := claims{GUID: u.GUID, Email: u.Email, Project: u.Project, Roles: u.Roles}
	c.Subject = u.Name
	return c
}

func parseUsers(text []byte) ([]keystone.User, error) {
	if len(text) > maxUsers {
		return nil, fmt.Errorf("it has more than %d bytes", maxUsers)
	}
	users, err := keystone.ParseUsers(text)
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		// What would be refused when the token comes back is refused before it goes out.
		if _, err := claimsOf(u).caller(); err != nil {
			return nil, fmt.Errorf("%q: %w", u.Name, err)
		}
	}
	return users, nil
}

// checkOwned refuses, beside what checkPrivate does, what another user of the machine may write: a line is a way in.
func checkOwned(f *os.File) error {
	if err := checkPrivate(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() || info.Mode().Perm()&0o020 != 0 {
		return fmt.Errorf("%s: it must be root's, and writable by nobody else; chown root it, and chmod 0600", f.Name())
	}
	return nil
}
