package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"plain – café 日本 🙂":      "plain – café 日本 🙂",
		"a\tb\nc\r":              `a\tb\nc\r`,
		"\x1b[31mred\x07\x7f":    `\x1b[31mred\a\x7f`,
		"\u009b31m":              `\u009b31m`,
		"\u202egnp.exe\u200b":    `\u202egnp.exe\u200b`,
		"\u2028":                 `\u2028`,
		"bad\xff\xc3":            `bad\xff\xc3`,
		"\U000e0041":             `\U000e0041`,
		"honest \ufffd":          "honest \ufffd",
		"\x1b and honest \ufffd": `\x1b and honest ` + "\ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[2J\u202e\xff")
	f.Add("plain")
	f.Fuzz(func(t *testing.T, in string) {
		got := printable(in)
		bad := func(r rune) bool { return !unicode.IsGraphic(r) }
		if strings.IndexFunc(got, bad) >= 0 || !utf8.ValidString(got) || printable(got) != got {
			t.Errorf("printable(%q) = %q", in, got)
		}
		// The same holds of JSON, which must besides say the same text.
		var b strings.Builder
		a := &app{out: &b}
		if err := a.printJSON(in); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") && utf8.ValidString(in) {
			t.Errorf("printJSON(%q) = %q, read as %q, %v", in, b.String(), back, err)
		}
		if strings.IndexFunc(strings.TrimSuffix(b.String(), "\n"), bad) >= 0 {
			t.Errorf("printJSON(%q) = %q", in, b.String())
		}
	})
}

func TestMatch(t *testing.T) {
	among := []candidate{
		{id: "aaaa1111-0", name: "base"}, {id: "aaaa2222-0", name: "aaaa1111-0"}, {id: "bbbb3333-0", name: "twin"},
		{id: "cccc4444-0", name: "twin"}, {id: "dddd5555-0", name: "bbbb"},
	}
	for _, tt := range []struct{ arg, want, code string }{
		{"aaaa1111-0", "aaaa1111-0", ""}, // an id goes before a name that is the same
		{"aaaa1", "aaaa1111-0", ""},
		{"AAAA2", "aaaa2222-0", ""},
		{"base", "aaaa1111-0", ""},
		{"aaaa", "", client.Invalid},
		{"twin", "", client.Invalid},
		{"bbbb", "", client.Invalid}, // one's name, the beginning of another's id
		{"aaa", "", client.NotFound},
		{"", "", client.NotFound},
		{"Base", "", client.NotFound},
		{"eeee", "", client.NotFound},
	} {
		got, err := match("image", tt.arg, among)
		if got.id != tt.want || tt.code != "" && !client.Is(err, tt.code) || tt.code == "" && err != nil {
			t.Errorf("match(%q) = %q, %v; want %q, %q", tt.arg, got.id, err, tt.want, tt.code)
		}
	}
}

func TestRender(t *testing.T) {
	op := func(progress int, step string) wire.Operation { return wire.Operation{Progress: progress, Step: step} }
	for _, tt := range []struct {
		op      wire.Operation
		elapsed time.Duration
		width   int
		want    string
	}{
		{op(45, "start"), 3200 * time.Millisecond, 79, "launch 0a1b [#########...........]  45% start 3.2 s"},
		{op(100, "verify"), 75 * time.Second, 79, "launch 0a1b [####################] 100% verify 1m15s"},
		{op(-5, "x"), -time.Hour, 79, "launch 0a1b [....................]   0% x 0.00 s"},
		{op(1000, "x"), 0, 79, "launch 0a1b [####################] 100% x 0.00 s"},
		{op(45, "a\x1b[2J\n"), 0, 79, `launch 0a1b [#########...........]  45% a\x1b[2J\n 0.00 s`},
		{op(45, "start"), 0, 30, "launch 0a1b  45% start 0.00 s"}, // the bar goes first
		{op(45, "start"), 0, 20, "launch 0a1b   0.00 s"},
		{op(45, "start"), 0, 3, " 0."},
		{op(45, "start"), 0, 0, ""},
		{op(45, "start"), 0, -1, ""},
	} {
		if diff := cmp.Diff(tt.want, render("launch 0a1b", tt.op, tt.elapsed, tt.width)); diff != "" {
			t.Errorf("width %d: %s", tt.width, diff)
		}
	}
}

func TestFigures(t *testing.T) {
	now := time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ got, want string }{
		{age("2026-01-10 11:59:18", now), "42s"},
		{age("2026-01-10 11:18:00", now), "42m"},
		{age("2026-01-09 13:00:00", now), "23h"},
		{age("2025-01-10 12:00:00", now), "365d"},
		{age("2027-01-10 12:00:00", now), "0s"},
		{age("yesterday", now), "yesterday"},
		{size(0), ""}, {size(-1), ""}, {size(1023), "1023 B"}, {size(1536), "1.5 KiB"}, {size(20 << 20), "20.0 MiB"},
		{size(1 << 62), "4.0 EiB"},
		{count(-1, " MB"), ""}, {count(0, ""), ""}, {count(1024, " MB"), "1024 MB"},
		{address("203.0.113.7", 16000), "203.0.113.7:16000"}, {address("2001:db8::7", 22), "[2001:db8::7]:22"}, {address("h", -1), ""},
		{cell(strings.Repeat("é", 41), 40), strings.Repeat("é", 39) + "…"}, {cell("", 40), "-"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestGeneratedPasswords(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		p, err := generatePassword()
		if err != nil || len(p) != 8 || strings.Trim(p, alphabet) != "" || seen[p] {
			t.Fatalf("password %q, %v", p, err)
		}
		seen[p] = true
	}
}

// An administrator's list is one call, however many capsules others have.
func TestListOfMany(t *testing.T) {
	daemon := newFakeDaemon()
	for i := range 50 {
		daemon.AddCapsule(wire.Status{VMID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", 50-i),
			CreatedAt: fmt.Sprintf("2020-01-01 00:00:%02d", i%3)}, i%5 == 0)
	}
	socket, stop, err := serveUnix(daemon)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var out strings.Builder
	if status := run(t.Context(), []string{"list", "-q", "--socket", socket}, nil, &out, &out); status != 0 {
		t.Fatal(status, out.String())
	}
	ids := strings.Fields(out.String())
	if len(ids) != 50 || ids[0] != "00000002-0000-4000-8000-000000000000" {
		t.Errorf("%d capsules, first %q", len(ids), ids[0])
	}
	if calls := daemon.Calls(); len(calls) != 1 {
		t.Errorf("%d calls", len(calls))
	}
}
