package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// printable escapes what could steer a terminal or deceive its reader: control characters (of both sets: a C1 byte can
// begin a sequence too), invalid UTF-8, and invisible or direction-changing characters. The result is one line.
func printable(s string) string {
	clean := func(r rune) bool { return r != utf8.RuneError && unicode.IsGraphic(r) }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == utf8.RuneError || clean(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		s = s[size:]
	}
	return b.String()
}

// printJSON prints v as one document. Beyond what JSON demands it escapes what printable would: \u escapes are equal
// text to a program, and a terminal is not harmed.
func (a *app) printJSON(v any) error {
	var raw strings.Builder
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range raw.String() {
		switch {
		case r == '\n' || unicode.IsGraphic(r):
			b.WriteRune(r)
		case r > 0xffff:
			const surrogates, low = 0xd800, 0xdc00
			fmt.Fprintf(&b, `\u%04x\u%04x`, surrogates+(r-0x10000)>>10, low+(r-0x10000)&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

// column is one column of a table of T: a heading and how to say it.
type column[T any] struct {
	name string
	text func(T) string
}

// widest is how many characters of a cell a table shows; longText of one that ends its line and is read whole, such as
// what a guest answered.
const (
	widest   = 40
	longText = 200
)

// printTable prints a heading and a line for each row.
func printTable[T any](w io.Writer, columns []column[T], rows []T) error {
	return printWide(w, columns, rows, widest)
}

// printWide is printTable with a last column of up to last characters.
func printWide[T any](w io.Writer, columns []column[T], rows []T, last int) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, c := range columns {
		fmt.Fprint(tw, separator(i), c.name)
	}
	fmt.Fprintln(tw)
	for _, row := range rows {
		for i, c := range columns {
			most := widest
			if i == len(columns)-1 {
				most = last
			}
			fmt.Fprint(tw, separator(i), cell(c.text(row), most))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return "\t"
}

// cell is s in at most so many characters.
func cell(s string, most int) string {
	s = printable(s)
	if s == "" {
		return "-"
	}
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// printBlock prints a line "name  value" for each column that has something to say of v.
func printBlock[T any](w io.Writer, columns []column[T], v T) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range columns {
		if text := c.text(v); text != "" {
			fmt.Fprintf(tw, "%s\t%s\n", c.name, printable(text))
		}
	}
	return tw.Flush()
}
