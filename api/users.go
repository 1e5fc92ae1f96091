package api

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/keystone"
)

// usersFile is the users' file, read again when it changes. As with the secret, one that went bad is an error, and not
// what it said before: who removed a user meant it.
type usersFile struct {
	path string

	mu    sync.Mutex // guards what follows
	state fileState
	users []keystone.User
	err   error
}

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
		f := &usersFile{path: opt.UsersFile}
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

// read returns the present users. The caller must not change them.
func (f *usersFile) read() ([]keystone.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		f.state = fileState{} // whatever comes back is read
		return nil, fmt.Errorf("api: users: %w", err)
	}
	if now := stateOf(info); now != f.state {
		f.state = now // from before the read, as with the secret
		f.users, f.err = readUsers(f.path)
	}
	return f.users, f.err
}

func readUsers(path string) ([]keystone.User, error) {
	const longest = 1 << 20
	// Without O_NONBLOCK a FIFO in its place would hang the request.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("api: users: %w", err)
	}
	defer file.Close()
	if err := checkOwned(file); err != nil {
		return nil, fmt.Errorf("api: users: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, longest+1))
	if err == nil && len(text) > longest {
		err = fmt.Errorf("it has more than %d bytes", longest)
	}
	var users []keystone.User
	if err == nil {
		users, err = keystone.ParseUsers(text)
	}
	if err != nil {
		return nil, fmt.Errorf("api: users %s: %w", path, err)
	}
	for _, u := range users {
		// What would be refused when the token comes back is refused before it goes out.
		if _, err := claimsOf(u).caller(); err != nil {
			return nil, fmt.Errorf("api: users %s: %q: %w", path, u.Name, err)
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
