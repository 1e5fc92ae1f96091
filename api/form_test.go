package api

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/daemon"
)

const goodForm = "imageid=i&loginusername=u&loginpassword=p"

func TestFormDecode(t *testing.T) {
	const vmid = "3f1c0d5e-8a4b-4c8e-9d57-2b6f1a0e7c43"
	for _, row := range []struct {
		name   string
		params params
		form   string
		want   fields
		fault  string // part of the message
	}{
		{name: "whole", params: createParams, form: goodForm, want: fields{"imageid": "i", "loginusername": "u", "loginpassword": "p"}},
		{name: "vmid in capitals", params: vmidParams, form: "vmid=" + strings.ToUpper(vmid), want: fields{"vmid": vmid}},
		{name: "vmid optional", params: showParams, form: "", want: fields{}},
		{name: "flag in any case", params: createParams, form: goodForm + "&consent=TRUE&full_access=False",
			want: fields{"imageid": "i", "loginusername": "u", "loginpassword": "p", "consent": "true", "full_access": "false"}},
		{name: "empty title", params: createParams, form: goodForm + "&title=", want: fields{"imageid": "i", "loginusername": "u", "loginpassword": "p", "title": ""}},
		{name: "newlines in a text", params: createParams, form: goodForm + "&rr_data_files=a%0D%0Ab%0Ac%09d",
			want: fields{"imageid": "i", "loginusername": "u", "loginpassword": "p", "rr_data_files": "a\nb\nc\td"}},
		{name: "title of 256 runes", params: createParams, form: goodForm + "&title=" + strings.Repeat("%C3%A4", 256),
			want: fields{"imageid": "i", "loginusername": "u", "loginpassword": "p", "title": strings.Repeat("ä", 256)}},

		{name: "mode in capitals", params: switchParams, form: "vmid=" + vmid + "&mode=SECURE", want: fields{"vmid": vmid, "mode": "secure"}},
		{name: "mode and review", params: switchParams, form: "vmid=" + vmid + "&mode=Maintenance&review=False",
			want: fields{"vmid": vmid, "mode": "maintenance", "review": "false"}},
		{name: "packet", params: explainParams, form: "packet=tcp%20to+192.0.2.1:443", want: fields{"packet": "tcp to 192.0.2.1:443"}},

		{name: "all missing", params: createParams, form: "", fault: "imageid is missing; loginusername is missing; loginpassword is missing"},
		{name: "vmid missing", params: vmidParams, form: "", fault: "vmid is missing"},
		{name: "vmid twice", params: vmidParams, form: "vmid=" + vmid + "&vmid=" + vmid, fault: "vmid is given more than once"},
		{name: "unknown", params: vmidParams, form: "vmid=" + vmid + "&vmId=" + vmid, fault: `unknown: "vmId" (allowed: vmid)`},
		{name: "unknown of many", params: noParams, form: "a&b&c&d&e&f", fault: `unknown: "a", "b", "c", "d", "e" and others (no parameter is allowed)`},
		{name: "unknown is quoted", params: noParams, form: "%1B%5B31m%E2%80%AE=", fault: `unknown: "\x1b[31m\u202e"`},
		{name: "unknown is cut", params: noParams, form: strings.Repeat("x", 5000), fault: `"` + strings.Repeat("x", 40) + `..."`},
		{name: "vmid empty", params: vmidParams, form: "vmid=", fault: "vmid must be a UUID"},
		{name: "vmid in braces", params: vmidParams, form: "vmid={" + vmid + "}", fault: "vmid must be a UUID"},
		{name: "vmid as URN", params: vmidParams, form: "vmid=urn:uuid:" + vmid, fault: "vmid must be a UUID"},
		{name: "vmid without dashes", params: vmidParams, form: "vmid=" + strings.ReplaceAll(vmid, "-", ""), fault: "vmid must be a UUID"},
		{name: "vmid with path", params: vmidParams, form: "vmid=../" + vmid, fault: "vmid must be a UUID"},
		{name: "bad escape", params: vmidParams, form: "vmid=%zz", fault: "not well-formed"},
		{name: "semicolon", params: vmidParams, form: "vmid=a;b", fault: "not well-formed"},
		{name: "not UTF-8", params: createParams, form: goodForm + "&title=%ff", fault: "title must be UTF-8"},
		{name: "NUL", params: createParams, form: goodForm + "&title=a%00b", fault: "title must not contain control characters"},
		{name: "NUL in a text", params: createParams, form: goodForm + "&desc_nature=a%00b", fault: "desc_nature must not contain control characters"},
		{name: "escape in a text", params: createParams, form: goodForm + "&desc_links=%1b[2J", fault: "desc_links must not contain control characters"},
		{name: "lone CR", params: createParams, form: goodForm + "&desc_links=a%0Db", fault: "desc_links must not contain control characters"},
		{name: "C1 control", params: createParams, form: goodForm + "&title=%C2%9B", fault: "title must not contain control characters"},
		{name: "newline in a title", params: createParams, form: goodForm + "&title=a%0Ab", fault: "title must not contain control characters"},
		{name: "reordered title", params: createParams, form: goodForm + "&title=%E2%80%AE", fault: "title must not contain characters that change the direction"},
		{name: "title too long", params: createParams, form: goodForm + "&title=" + strings.Repeat("a", 257), fault: "title must have at least 0 and at most 256 characters, not 257"},
		{name: "text too long", params: createParams, form: goodForm + "&rr_result_usage=" + strings.Repeat("a", 2049), fault: "at most 2048 characters, not 2049"},
		{name: "shell in an image id", params: createParams, form: "imageid=%24%28id%29&loginusername=u&loginpassword=p", fault: "imageid must be"},
		{name: "path in an image id", params: createParams, form: "imageid=..%2Fi&loginusername=u&loginpassword=p", fault: "imageid must be"},
		{name: "newline after an image id", params: createParams, form: "imageid=i%0A&loginusername=u&loginpassword=p", fault: "imageid must be"},
		{name: "shell in a login name", params: createParams, form: "imageid=i&loginusername=u%60id%60&loginpassword=p", fault: "loginusername must be"},
		{name: "password of 9", params: createParams, form: "imageid=i&loginusername=u&loginpassword=123456789", fault: "loginpassword must be 1 to 8 printable ASCII characters"},
		{name: "password empty", params: createParams, form: "imageid=i&loginusername=u&loginpassword=", fault: "loginpassword must be 1 to 8"},
		{name: "password in umlauts", params: createParams, form: "imageid=i&loginusername=u&loginpassword=%C3%A4", fault: "loginpassword must be 1 to 8"},
		{name: "type in small letters", params: createParams, form: goodForm + "&type=demo", fault: "type must be one of DEMO, RESEARCH, RESEARCH-FULL"},
		{name: "mode missing", params: switchParams, form: "vmid=" + vmid, fault: "mode is missing"},
		{name: "mode by its first letter", params: switchParams, form: "vmid=" + vmid + "&mode=s", fault: "mode must be maintenance or secure"},
		{name: "mode with a long s", params: switchParams, form: "vmid=" + vmid + "&mode=%C5%BFecure", fault: "mode must be maintenance or secure"},
		{name: "mode with a space", params: switchParams, form: "vmid=" + vmid + "&mode=secure+", fault: "mode must be maintenance or secure"},
		{name: "mode empty", params: switchParams, form: "vmid=" + vmid + "&mode=", fault: "mode must be maintenance or secure"},
		{name: "no mode", params: switchParams, form: "vmid=" + vmid + "&mode=NOT_DEFINED", fault: "mode must be maintenance or secure"},
		{name: "two modes", params: switchParams, form: "vmid=" + vmid + "&mode=secure&mode=maintenance", fault: "mode is given more than once"},
		{name: "review of another kind", params: switchParams, form: "vmid=" + vmid + "&mode=secure&review=1", fault: "review must be true or false"},
		{name: "type of a switch", params: switchParams, form: "vmid=" + vmid + "&mode=secure&vmtype=DEMO", fault: `unknown: "vmtype" (allowed: vmid, mode, review)`},
		{name: "packet with an escape", params: explainParams, form: "packet=tcp%1b", fault: "packet must not contain control characters"},
		{name: "packet without end", params: explainParams, form: "packet=" + strings.Repeat("a", 301), fault: "at most 300 characters"},
		{name: "flag of another kind", params: createParams, form: goodForm + "&consent=yes", fault: "consent must be true or false"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := row.params.decode(row.form, "form")
			if row.fault == "" {
				if diff := cmp.Diff(row.want, got); diff != "" || err != nil {
					t.Fatalf("error %v; fields (-want +got):\n%s", err, diff)
				}
				return
			}
			e, ok := errors.AsType[*daemon.Error](err)
			if !ok || e.Code != daemon.Invalid || !strings.Contains(e.Message, row.fault) {
				t.Fatalf("got %v, want invalid with %q", err, row.fault)
			}
		})
	}
}

func TestFormNumbers(t *testing.T) {
	for _, value := range []string{"", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "0x10", "1_000", "１", "2g", "257", "99999999999999999999", "NaN", "-0"} {
		if f, err := createParams.decode(goodForm+"&vcpu="+url.QueryEscape(value), "form"); err == nil || !strings.Contains(err.Error(), "vcpu must be a whole number from 1 to 256") {
			t.Errorf("vcpu %q gives %v, %v", value, f, err)
		}
	}
	f, err := createParams.decode(goodForm+"&vcpu=256&memory=64", "form")
	if err != nil || f.number("vcpu") != 256 || f.number("memory") != 64 || f.number("absent") != 0 {
		t.Errorf("got %v, %v", f, err)
	}
}

// FuzzForm holds the decoder to its promises: it never panics, refuses with an invalid *daemon.Error whose message can
// go anywhere, and what it accepts is allowed, complete, clean and stable.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"", goodForm, "vmid=x", "vmid=3f1c0d5e-8a4b-4c8e-9d57-2b6f1a0e7c43", "%ff=%00&a;b", goodForm + "&memory=64&title=%E2%80%AE&desc_nature=%0D%0A", "a&a&&=&%",
		"vmid=3f1c0d5e-8a4b-4c8e-9d57-2b6f1a0e7c43&mode=Secure&review=TRUE", "mode=%C5%BFECURE", "packet=tcp+to+192.0.2.1:443"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		for _, ps := range []params{createParams, vmidParams, showParams, noParams, operationsParams, switchParams, explainParams} {
			got, err := ps.decode(raw, "form")
			if err != nil {
				e, ok := errors.AsType[*daemon.Error](err)
				if !ok || e.Code != daemon.Invalid || checkText(e.Message, 1, 4096, "") != nil {
					t.Fatalf("%q is refused with %#v", raw, err)
				}
				continue
			}
			again := url.Values{}
			left := len(got)
			for _, p := range ps {
				v, ok := got[p.name]
				if !ok && p.required {
					t.Fatalf("%q passes without %s", raw, p.name)
				}
				if !ok {
					continue
				}
				left--
				again.Set(p.name, v)
				if !utf8.ValidString(v) || strings.ContainsAny(v, "\x00\r\x1b\x7f") {
					t.Fatalf("%q gives %s = %q", raw, p.name, v)
				}
			}
			if left != 0 {
				t.Fatalf("%q gives more than is allowed: %v", raw, got)
			}
			if twice, err := ps.decode(again.Encode(), "form"); err != nil || !cmp.Equal(got, twice) {
				t.Fatalf("%v decodes again to %v, %v", got, twice, err)
			}
		}
	})
}
