package api

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// check validates one value and returns it in its normal form. Its error completes the sentence "NAME ..." and never
// repeats the value, which may be a password or aimed at a terminal.
type check func(value string) (string, error)

// line accepts one line of text of min to max characters.
func line(min, max int) check {
	return func(v string) (string, error) { return v, checkText(v, min, max, "") }
}

// text accepts up to max characters with newlines and tabs. Browsers send CRLF; it becomes a newline.
func text(max int) check {
	return func(v string) (string, error) {
		v = strings.ReplaceAll(v, "\r\n", "\n")
		return v, checkText(v, 0, max, "\n\t")
	}
}

// checkText refuses what is no text, or could disguise itself in a log or on a terminal: bytes that are not UTF-8,
// control characters but those of extra, and the marks that reorder a line (Unicode's bidirectional controls).
func checkText(v string, min, max int, extra string) error {
	if !utf8.ValidString(v) {
		return errors.New("must be UTF-8")
	}
	for _, r := range v {
		if unicode.IsControl(r) && !strings.ContainsRune(extra, r) {
			return errors.New("must not contain control characters")
		}
		if unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return errors.New("must not contain characters that change the direction or the line of text")
		}
	}
	switch n := utf8.RuneCountInString(v); {
	case n < min && n == 0:
		return errors.New("must not be empty")
	case n < min || n > max:
		return fmt.Errorf("must have at least %d and at most %d characters, not %d", min, max, n)
	}
	return nil
}

// matching accepts what pattern matches whole; what says it in words.
func matching(pattern, what string) check {
	re := regexp.MustCompile(`\A(?:` + pattern + `)\z`)
	return func(v string) (string, error) {
		if !re.MatchString(v) {
			return "", errors.New("must be " + what)
		}
		return v, nil
	}
}

// number accepts a decimal from lo to hi without sign, spaces, leading zeros or exponent.
func number(lo, hi int) check {
	return func(v string) (string, error) {
		n, err := strconv.Atoi(v)
		if err != nil || strconv.Itoa(n) != v || n < lo || n > hi {
			return "", fmt.Errorf("must be a whole number from %d to %d", lo, hi)
		}
		return v, nil
	}
}

// flag accepts true and false in any case.
func flag(v string) (string, error) {
	v = strings.ToLower(v)
	if v != "true" && v != "false" {
		return "", errors.New("must be true or false")
	}
	return v, nil
}

func oneOf(values ...string) check {
	return func(v string) (string, error) {
		if !slices.Contains(values, v) {
			return "", errors.New("must be one of " + strings.Join(values, ", "))
		}
		return v, nil
	}
}

// word accepts one of some words in any case, and returns it as it stands here.
func word(words ...string) check {
	return func(v string) (string, error) {
		for _, w := range words {
			if strings.EqualFold(v, w) && len(v) == len(w) { // EqualFold also takes letters beyond ASCII, such as the long s
				return w, nil
			}
		}
		return "", errors.New("must be " + strings.Join(words, " or "))
	}
}

// canonicalUUID accepts 8-4-4-4-12 hex digits in any case, and returns them in lower case. uuid.Parse also takes braces,
// URNs and 32 bare digits; those are refused here.
func canonicalUUID(v string) (string, error) {
	u, err := uuid.Parse(v)
	if err != nil || !strings.EqualFold(u.String(), v) {
		return "", errors.New("must be a UUID such as 3f1c0d5e-8a4b-4c8e-9d57-2b6f1a0e7c43")
	}
	return u.String(), nil
}
