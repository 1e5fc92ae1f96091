package api

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A token that was verified once is good for as long as it says, and no longer; and never with another secret.
func TestVerifiedTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	first, second := []byte("the first of two secrets, long enough"), []byte("the second of two secrets, long enough")
	write := func(secret []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", secret, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write(first)
		tokens, err := newTokens(file, []string{"boss"})
		if err != nil {
			t.Fatal(err)
		}
		sign := func(guid string, life time.Duration) string {
			token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": guid, "exp": time.Now().Add(life).Unix()}).SignedString(first)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		good := func(token, guid string, want bool) {
			t.Helper()
			for range 2 { // the second is known, or still is not
				if c, err := tokens.verify(token); (err == nil) != want || want && c.GUID != guid {
					t.Errorf("%s: %+v, %v; good is %t", guid, c, err, want)
				}
			}
		}
		short, long, boss := sign("short", time.Minute), sign("long", time.Hour), sign("boss", time.Hour)
		good(short, "short", true)
		good(long, "long", true)
		good(boss, "boss", true)
		good(short[:len(short)-2], "", false)
		a, _ := tokens.verify(boss)
		b, _ := tokens.verify(boss)
		if one, other := append(a.Roles, "a"), append(b.Roles, "b"); len(a.Roles) != 1 || one[1] != "a" || other[1] != "b" {
			t.Errorf("two requests have %v and %v", one, other)
		}
		time.Sleep(time.Minute + tokenLeeway)
		good(short, "short", false)
		good(long, "long", true)
		write(second)
		good(long, "long", false)
		write(first)
		good(long, "long", true)
		for n := range 2 * mostKnown {
			good(sign(fmt.Sprint("guid", n), time.Hour), fmt.Sprint("guid", n), true)
		}
		if len(tokens.known) > mostKnown {
			t.Errorf("%d tokens are known", len(tokens.known))
		}
	})
}
