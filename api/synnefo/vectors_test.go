package synnefo_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/capsuled/capsuled/daemon"
)

// The test vectors of the contract's section 13 that are about S1 and S2, by their numbers. The eighth is
// TestChangesSince, and the eleventh TestIdentity.

func TestVector02MergeIsCreatedAndReadIsWrapped(t *testing.T) {
	four := map[string]string{"architecture": "x86_64", "auto_disk_config": "True", "kernel_id": "nokernel", "ramdisk_id": "nokernel"}
	const all = `{"architecture":"x86_64","auto_disk_config":"True","kernel_id":"False","ramdisk_id":"nokernel","Label":"UpdatedImage"}`
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, newFake(image(alpha, "", with(four))))
		h.put("POST", e.path("/"+alpha+"/META"), `{"metadata":{"kernel_id":"False","Label":"UpdatedImage"}}`).is(201, `{"metadata":`+all+`}`)
		want := `{"metadata":{"values":` + all + `}}`
		if e == s2 {
			want = `{"metadata":` + all + `}`
		}
		h.ask("GET", e.path("/"+alpha+"/META"), "").is(200, want)
	})
}

func TestVector03DeleteOfAMissingKey(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, newFake(image(alpha, "", with(map[string]string{"a": "b"}))))
		for range 2 {
			h.ask("DELETE", e.path("/"+alpha+"/META/a"), "").is(204, "")
			h.ask("GET", e.path("/"+alpha+"/META/a"), "").isFault(404, "itemNotFound")
		}
	})
}

func TestVector04KeysOfItems(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		f := newFake(image(alpha, "", nil))
		h := newHost(t, f)
		h.put("PUT", e.path("/"+alpha+"/META/a"), `{"meta":{"b":"c"}}`).isFault(400, "badRequest")
		h.put("PUT", e.path("/"+alpha+"/META/a"), `{"meta":{"a":"b","c":"d"}}`).isFault(400, "badRequest")
		h.put("PUT", e.path("/"+alpha+"/META/a/b"), `{"meta":{"a/b":"1"}}`).is(201, `{"meta":{"a/b":"1"}}`)
		h.ask("GET", e.path("/"+alpha+"/META/a%2Fb"), "").is(200, `{"meta":{"a/b":"1"}}`)
		h.put("PUT", e.path("/"+alpha+"/META/a%2fb.json"), `{"meta":{"a/b":"2"}}`).is(201, `{"meta":{"a/b":"2"}}`)
		h.put("PUT", e.path("/"+alpha+"/META/x.json.json"), `{"meta":{"x.json":"3"}}`).is(201, `{"meta":{"x.json":"3"}}`)
		if got := fmt.Sprint(f.images[alpha].Metadata); got != "map[a/b:2 x.json:3]" {
			t.Errorf("kept: %s", got)
		}
	})
}

func TestVector05Lengths(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, newFake(image(alpha, "", nil)))
		for _, row := range []struct {
			key, value string
			want       int
		}{
			{strings.Repeat("k", 255), "v", 201},
			{strings.Repeat("k", 256), "v", 400},
			{strings.Repeat("😀", 255), "v", 201}, // counted as one each
			{strings.Repeat("😀", 256), "v", 400},
			{"k", strings.Repeat("v", 255), 201},
			{"k", strings.Repeat("v", 256), 201},
			{"k", strings.Repeat("v", 257), 400},
			{"k", strings.Repeat("😀", 256), 201},
			{"k", strings.Repeat("😀", 257), 400},
			{"k", "", 201},
			{"☐", "☐", 201},
			{"k", "\t\r\n", 201},
			{"k", "\x1b", 400},
		} {
			item, err := json.Marshal(map[string]string{row.key: row.value})
			if err != nil {
				t.Fatal(err)
			}
			a := h.put("POST", e.path("/"+alpha+"/META"), `{"metadata":`+string(item)+`}`)
			b := h.put("PUT", e.path("/"+alpha+"/META/"+escaped(row.key)), `{"meta":`+string(item)+`}`)
			if a.Status != row.want || b.Status != row.want {
				t.Errorf("a key of %d and a value of %d characters: POST %d, PUT %d, want %d", utf8.RuneCountInString(row.key),
					utf8.RuneCountInString(row.value), a.Status, b.Status, row.want)
			}
		}
	})
}

// escaped escapes every byte.
func escaped(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&out, "%%%02X", c)
	}
	return out.String()
}

func TestVector06TheLimitOfItems(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		h := newHost(t, kept())
		h.put("PUT", e.path("/full/META/k0"), `{"meta":{"k0":"changed"}}`).is(201, `{"meta":{"k0":"changed"}}`) // no new one
		h.put("PUT", e.path("/full/META/k128"), `{"meta":{"k128":"v"}}`).isFault(413, "overLimit")
		a := h.put("POST", e.path("/full/META"), `{"metadata":{"k128":"v"}}`)
		a.isFault(413, "overLimit")
		if !strings.Contains(a.fault().Message, "exceeded") {
			t.Errorf("%s", a.Body)
		}
		h.ask("GET", e.path("/full/META/k128"), "").isFault(404, "itemNotFound")
	})
}

func TestVector10XML(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		f := newFake(image(alpha, "& < > \" ' ☐ 😀 \x01 \ufffe \xff\t\n\r", with(map[string]string{"<&>\"'\x02": "]]>&amp;\r"})), image(beta, "", nil))
		h := newHost(t, f)
		var got struct {
			XMLName xml.Name
			Name    string `xml:"name,attr"`
			Meta    struct {
				Key   string `xml:"key,attr"`
				Value string `xml:",chardata"`
			} `xml:"metadata>meta"`
		}
		a := h.ask("GET", e.path("/"+alpha+".xml"), "", "Accept", "application/json") // the suffix beats Accept
		if err := xml.Unmarshal(a.Body, &got); err != nil {
			t.Fatalf("%v: %s", err, a.Body)
		}
		if got.XMLName.Space != "http://docs.openstack.org/compute/api/v1.1" || got.Name != "& < > \" ' ☐ 😀 \ufffd \ufffd \ufffd\t\n\r" ||
			got.Meta.Key != "<&>\"'\ufffd" || got.Meta.Value != "]]>&amp;\r" {
			t.Errorf("%+v", got)
		}
		if a := h.ask("GET", e.path("/"+beta+".xml"), ""); strings.Contains(string(a.Body), "metadata") {
			t.Errorf("no items, and %s", a.Body)
		}
		h.ask("GET", e.path("/none.xml"), "").isFault(404, "itemNotFound") // wants namespace and code
	})
}

func TestVector13AWalkThroughTheStates(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(image(alpha, "", func(m *daemon.Image) { m.State, m.UpdatedAt = daemon.ImagePending, time.Now() }))
			h := newHost(t, f)
			shows := func(want string) {
				t.Helper()
				for _, target := range []string{e.path("/" + alpha), e.images + "/detail?changes-since=" + time.Now().UTC().Format(time.RFC3339)} {
					if a := h.ask("GET", target, ""); a.Status != 200 || !strings.Contains(string(a.Body), want) {
						t.Errorf("%s: %d %s, want %s", a.asked, a.Status, a.Body, want)
					}
				}
			}
			listed := func(want int) {
				t.Helper()
				if a := h.ask("GET", e.images, ""); strings.Count(string(a.Body), alpha) != want {
					t.Errorf("%s: %s", a.asked, a.Body)
				}
			}
			shows(`"status":"SAVING","progress":0`)
			listed(1)
			h.ask("DELETE", e.path("/"+alpha), "").isFault(409, "buildInProgress")
			h.put("PUT", e.path("/"+alpha+"/META/a"), `{"meta":{"a":"b"}}`).isFault(409, "buildInProgress")

			m := f.images[alpha]
			m.State = daemon.ImageActive
			f.images[alpha] = m
			shows(`"status":"ACTIVE","progress":100`)
			listed(1)
			h.put("PUT", e.path("/"+alpha+"/META/a"), `{"meta":{"a":"b"}}`).is(201, `{"meta":{"a":"b"}}`)

			h.ask("DELETE", e.path("/"+alpha), "").is(204, "")
			shows(`"status":"DELETED","progress":0`)
			listed(0)
			h.ask("DELETE", e.path("/"+alpha), "").isFault(404, "itemNotFound")
			h.put("PUT", e.path("/"+alpha+"/META/a"), `{"meta":{"a":"b"}}`).isFault(409, "buildInProgress")

			m = f.images[alpha]
			m.State = daemon.ImageDeleted
			f.images[alpha] = m
			h.ask("GET", e.path("/"+alpha), "").isFault(404, "itemNotFound")
			h.ask("DELETE", e.path("/"+alpha), "").isFault(404, "itemNotFound")
			if a := h.ask("GET", e.images+"?changes-since="+time.Now().UTC().Format(time.RFC3339), ""); ids(t, e, a) != alpha {
				t.Errorf("the tombstone is not in %s", a.Body)
			}
		})
	})
}

func TestVector14ConcurrentMerges(t *testing.T) {
	f := newFake(image(alpha, "", nil))
	families := []*host{newHost(t, f), newHost(t, f)}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			e, k := editions[i%2], "k"+strconv.Itoa(i)
			h := families[i/2%2]
			method, path, name := "POST", "/"+alpha+"/META", "metadata"
			if i%3 == 0 {
				method, path, name = "PUT", "/"+alpha+"/META/"+k, "meta"
			}
			if a := h.put(method, e.path(path), `{"`+name+`":{"`+k+`":"v"}}`); a.Status != 201 {
				t.Errorf("%s: %d", a.asked, a.Status)
			}
		})
	}
	wg.Wait()
	if n := len(f.images[alpha].Metadata); n != 100 {
		t.Errorf("%d items are left of 100", n)
	}
	for _, verb := range f.asked {
		if verb != "set" {
			t.Errorf("a merge asks for %q too: what it read could be old by the time it writes", verb)
		}
	}
}
