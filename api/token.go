package api

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/capsuled/capsuled/daemon"
)

// tokenLeeway forgives clocks that differ a little.
const tokenLeeway = 10 * time.Second

// tokens turns bearer tokens into callers.
type tokens struct {
	secret *privateFile[[]byte] // nil: none is configured, and no token is accepted
	admins []string             // guids that are administrators whatever their token says
	parser *jwt.Parser

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]verified
}

// verified is a token that was found good, so that it need not be taken apart at each request.
type verified struct {
	caller daemon.Caller
	claims claims
	secret *byte // the first of what it was verified with: the secret is in another place once it has changed
}

// mostKnown bounds what is known of tokens.
const mostKnown = 1024

// claims is what a token may say. exp and sub are required; guid defaults to sub.
type claims struct {
	jwt.RegisteredClaims
	GUID    string   `json:"guid"`
	Email   string   `json:"email"`
	Project string   `json:"project"`
	Roles   []string `json:"roles"`
}

func newTokens(secretPath string, admins []string) (*tokens, error) {
	t := &tokens{
		known:  map[[sha256.Size]byte]verified{},
		admins: slices.Clone(admins),
		// The algorithm is pinned: a token chooses neither "none" nor a public key as HMAC secret.
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding()),
	}
	for _, a := range admins {
		if err := CheckGUID(a); err != nil {
			return nil, fmt.Errorf("api: administrator %q: %w", a, err)
		}
	}
	if secretPath == "" {
		return t, nil
	}
	var err error
	t.secret, err = openSecret(secretPath)
	return t, err
}

// verify returns the caller that token names, without From and Request.
func (t *tokens) verify(token string) (daemon.Caller, error) {
	caller, _, err := t.read(token)
	return caller, err
}

// read verifies a token, and returns its claims as well.
func (t *tokens) read(token string) (daemon.Caller, claims, error) {
	if t.secret == nil {
		return daemon.Caller{}, claims{}, unauthorized(nil, "this host accepts no tokens")
	}
	secret, err := t.secret.read()
	if err != nil {
		return daemon.Caller{}, claims{}, noSecret(err)
	}
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	v, ok := t.known[sum]
	t.mu.Unlock()
	if ok && v.secret == &secret[0] && time.Now().Before(v.claims.ExpiresAt.Add(tokenLeeway)) {
		return v.caller, v.claims, nil
	}
	v = verified{secret: &secret[0]}
	if v.caller, v.claims, err = t.parse(token, secret); err != nil {
		return daemon.Caller{}, claims{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) == mostKnown {
		clear(t.known)
	}
	t.known[sum] = v
	return v.caller, v.claims, nil
}

// parse verifies a token with a secret.
func (t *tokens) parse(token string, secret []byte) (daemon.Caller, claims, error) {
	var c claims
	key := func(parsed *jwt.Token) (any, error) {
		if _, ok := parsed.Header["crit"]; ok { // extensions that must be understood, and none is (RFC 7515, section 4.1.11)
			return nil, jwt.ErrTokenUnverifiable
		}
		return secret, nil
	}
	if _, err := t.parser.ParseWithClaims(token, &c, key); err != nil {
		return daemon.Caller{}, claims{}, unauthorized(err, "the token is not valid, or no longer")
	}
	caller, err := c.caller()
	if err != nil {
		return daemon.Caller{}, claims{}, unauthorized(err, "the token is not valid: %v", err)
	}
	if slices.Contains(t.admins, caller.GUID) && !slices.Contains(caller.Roles, daemon.RoleAdmin) {
		caller.Roles = append(caller.Roles, daemon.RoleAdmin)
	}
	caller.Roles = slices.Clip(caller.Roles) // many requests have the same
	return caller, c, nil
}

func noSecret(err error) error {
	return &daemon.Error{Code: daemon.Unavailable, Message: "identities cannot be verified now", Err: err}
}

// issue makes a token that says c, from now on for life. Its subject, guid, email, project and roles are c's.
func (t *tokens) issue(c claims, life time.Duration) (string, error) {
	if t.secret == nil {
		return "", unauthorized(nil, "this host gives out no tokens")
	}
	secret, err := t.secret.read()
	if err != nil {
		return "", noSecret(err)
	}
	now := time.Now()
	c.ID = rand.Text() // so that no two are alike
	c.IssuedAt, c.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(life))
	return jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(secret)
}

// caller checks what the signature cannot: that the claims can go into records, logs and labels.
func (c claims) caller() (daemon.Caller, error) {
	if c.Subject == "" {
		return daemon.Caller{}, fmt.Errorf("sub is missing")
	}
	guid := c.GUID
	if guid == "" {
		guid = c.Subject
	}
	if err := CheckGUID(guid); err != nil {
		return daemon.Caller{}, fmt.Errorf("guid %w", err)
	}
	if err := checkText(c.Email, 0, 128, ""); err != nil {
		return daemon.Caller{}, fmt.Errorf("email %w", err)
	}
	if err := checkText(c.Project, 0, 64, ""); err != nil {
		return daemon.Caller{}, fmt.Errorf("project %w", err)
	}
	// Roles that mean nothing here may mean something elsewhere; they are dropped, not refused.
	roles := slices.DeleteFunc(slices.Clone(c.Roles), func(r string) bool {
		return r != daemon.RoleAdmin && r != daemon.RoleMetrics && r != daemon.RolePeer
	})
	return daemon.Caller{GUID: guid, Email: c.Email, Project: c.Project, Roles: roles}, nil
}

var guidPattern = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._@:+-]{0,63}\z`)

// localPrefix begins the guid of everybody who came over the unix socket, but for root.
const localPrefix = "local:"

// CheckGUID accepts what can be written anywhere, and nothing that names a local administrator or the daemon: else an
// identity provider's user "root" would own what the host's root made.
func CheckGUID(guid string) error {
	if !guidPattern.MatchString(guid) {
		return fmt.Errorf("must be 1 to 64 of A-Z a-z 0-9 . _ @ : + -, beginning with a letter or digit")
	}
	folded := strings.ToLower(guid)
	if folded == "root" || folded == "daemon" || strings.HasPrefix(folded, localPrefix) {
		return fmt.Errorf("is reserved")
	}
	return nil
}
