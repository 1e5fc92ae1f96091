package keystone

import (
	"context"
	"crypto/subtle"
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// longestPassword is all that bcrypt looks at, in bytes. A longer one would be right with any end.
const longestPassword = 72

// guard checks passwords.
type guard struct {
	names, addresses *throttle
	working          chan struct{} // one token for each password that is worked on
	seed             maphash.Seed
}

func newGuard() *guard {
	return &guard{
		names:     newThrottle(nameBurst, nameEvery),
		addresses: newThrottle(addressBurst, addressEvery),
		working:   make(chan struct{}, 2),
		seed:      maphash.MakeSeed(),
	}
}

// check returns the user that fits says and whose password it is. What is wrong is not told: name, password, or that
// there are no users at all. The attempt is charged first and forgiven when it was right, so that many at once do not slip
// past the limit.
func (g *guard) check(ctx context.Context, users []User, name, password, from string, fits func(User) bool) (User, error) {
	if err := g.charge(name, from); err != nil {
		return User{}, err
	}
	if len(users) == 0 {
		return User{}, wrong()
	}
	// A name that does not exist costs what some user's does, and the same one's every time.
	user, known := users[maphash.String(g.seed, name)%uint64(len(users))], 0
	for _, u := range users {
		if fits(u) {
			user, known = u, 1
			break
		}
	}
	select {
	case g.working <- struct{}{}:
	case <-ctx.Done():
		return User{}, &dialect.Refusal{Code: daemon.Unavailable, Message: "too many passwords are being checked; try again", Err: ctx.Err()}
	}
	err := bcrypt.CompareHashAndPassword(user.Hash, []byte(password[:min(len(password), longestPassword)]))
	<-g.working
	right := 0
	if err == nil {
		right = 1
	}
	right &= known & subtle.ConstantTimeLessOrEq(len(password), longestPassword)
	if right == 0 {
		return User{}, wrong()
	}
	g.names.refund(name)
	g.addresses.refund(from)
	return user, nil
}

func (g *guard) charge(name, from string) error {
	now := time.Now()
	wait := g.addresses.charge(from, now)
	if wait == 0 {
		if wait = g.names.charge(name, now); wait > 0 {
			g.addresses.refund(from)
		}
	}
	if wait == 0 {
		return nil
	}
	no := dialect.Refuse(http.StatusTooManyRequests, daemon.Busy, "too many attempts; wait before the next")
	no.Header = http.Header{"Retry-After": {strconv.Itoa(int((wait + time.Second - 1) / time.Second))}}
	return no
}

func wrong() *dialect.Refusal {
	return &dialect.Refusal{Code: daemon.Unauthorized, Message: "the name or the password is wrong, or they are no longer valid"}
}

// addressOf is what attempts are charged to: an IPv4 address, an IPv6 network of 64 bits, which one machine has all of,
// or the unix socket.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "local"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if network, err := addr.Prefix(64); err == nil {
			return network.String()
		}
	}
	return addr.String()
}
