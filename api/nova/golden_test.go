package nova_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/nova"
	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/internal/golden"
)

// A story in each version: what is asked and every byte of what is answered.
func TestGolden(t *testing.T) {
	for name, prefix := range map[string]string{"v2.1": "/v2.1", "v2": "/v2/" + project} {
		h := start(t)
		delete(h.images, full)
		var b strings.Builder
		for _, step := range [][3]string{
			{"GET", "/images", ""},
			{"GET", "/images?limit=2&name=guarded", ""},
			{"GET", "/images/detail?limit=1", ""},
			{"GET", "/images/detail", ""},
			{"GET", "/images/" + guarded, ""},
			{"GET", "/images/" + unknown, ""},
			{"GET", "/images/" + active + "/metadata", ""},
			{"POST", "/images/" + active + "/metadata", `{"metadata":{"kernel_id":"False","Label":"\u003cUpdated\u2028Image\u003e"}}`},
			{"POST", "/images/" + queued + "/metadata", `{"metadata":{}}`},
			{"POST", "/images/" + leaving + "/metadata", `{"metadata":{}}`},
			{"PUT", "/images/" + active + "/metadata", manyItems(129)},
			{"PUT", "/images/" + active + "/metadata", `{"metadata":{"auto_disk_config":"True","Label":"Changed"}}`},
			{"PUT", "/images/" + active + "/metadata/Label", `{"meta":{"Label":""}}`},
			{"GET", "/images/" + active + "/metadata/Label", ""},
			{"DELETE", "/images/" + active + "/metadata/Label", ""},
			{"DELETE", "/images/" + active + "/metadata/Label", ""},
			{"DELETE", "/images/" + active, ""},
			{"DELETE", "/images/" + active, ""},
			{"POST", "/images", "{}"},
		} {
			a := h.call(t, step[0], prefix+step[1], step[2])
			if len(step[2]) > 200 {
				step[2] = "..."
			}
			b.WriteString("> " + strings.TrimSpace(strings.Join([]string{step[0], prefix + step[1], step[2]}, " ")) + "\n")
			b.WriteString(a.header.Get("Content-Type") + " " + strconv.Itoa(a.status))
			for _, header := range []string{"Allow", "Retry-After", "OpenStack-API-Version", "X-OpenStack-Nova-API-Version", "Vary"} {
				if v := a.header.Get(header); v != "" {
					b.WriteString("\n" + header + ": " + v)
				}
			}
			b.WriteString("\n" + a.body + "\n\n")
		}
		golden.Check(t, name, b.String())
	}
}

// samples are Nova's own, where they are beside the project.
const samples = "../../../shared/contracts/nova-samples"

func sample(t *testing.T, name string) any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(samples, name))
	if err != nil {
		t.Fatal(err)
	}
	// The image service is below the same host here.
	text = []byte(strings.ReplaceAll(string(text), "http://glance.openstack.example.com/images", base+"/image/images"))
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// imageFrom makes a record of what a sample shows.
func imageFrom(t *testing.T, shown map[string]any) daemon.Image {
	t.Helper()
	name, _ := shown["name"].(string) // null is none
	img := daemon.Image{ID: shown["id"].(string), Name: name, Metadata: map[string]string{}}
	if shown["status"] == "SAVING" {
		img.State, img.Arrived = daemon.ImagePending, shown["progress"] == 50.0
	}
	img.FileBytes, img.MinDiskGB, img.MinRAMMB = int64(shown["OS-EXT-IMG-SIZE:size"].(float64)), int(shown["minDisk"].(float64)), int(shown["minRam"].(float64))
	for k, v := range shown["metadata"].(map[string]any) {
		if v == nil { // a record has no null: no door writes one
			shown["metadata"].(map[string]any)[k], v = "", ""
		}
		img.Metadata[k] = v.(string)
	}
	var errs [2]error
	img.CreatedAt, errs[0] = time.Parse(time.RFC3339, shown["created"].(string))
	img.UpdatedAt, errs[1] = time.Parse(time.RFC3339, shown["updated"].(string))
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return img
}

// Every field of Nova's own samples, from records that say the same. The samples are not the project's, and it does
// without them: then there is nothing to compare, and TestGolden stands alone.
func TestSamples(t *testing.T) {
	if _, err := os.Stat(samples); errors.Is(err, fs.ErrNotExist) {
		t.Log("there are no samples")
		return
	}
	h := start(t)
	clear(h.images)
	details := sample(t, "images-details-get-resp.json").(map[string]any)
	for _, shown := range details["images"].([]any) {
		h.add(imageFrom(t, shown.(map[string]any)))
	}
	at := "/v2/" + project + "/images"
	compare := func(name, method, path, request string) {
		t.Helper()
		body := ""
		if request != "" {
			text, err := json.Marshal(sample(t, request))
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		}
		a := h.call(t, method, at+path, body)
		if diff := cmp.Diff(byID(sample(t, name)), byID(object(t, a))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(byID(details), byID(object(t, h.call(t, "GET", at+"/detail", "")))); diff != "" {
		t.Errorf("images-details-get-resp.json (-want +got):\n%s", diff)
	}
	brief := newFake(t)
	clear(brief.images)
	for _, shown := range sample(t, "images-list-get-resp.json").(map[string]any)["images"].([]any) { // not the same ones
		name, _ := shown.(map[string]any)["name"].(string)
		brief.add(daemon.Image{ID: shown.(map[string]any)["id"].(string), Name: name})
	}
	detailed := h
	h = &host{brief, nova.New(brief)}
	compare("images-list-get-resp.json", "GET", "", "")
	h = detailed
	compare("image-get-resp.json", "GET", "/"+active, "")
	items := "/" + active + "/metadata"
	compare("image-metadata-get-resp.json", "GET", items, "")
	compare("image-meta-key-get.json", "GET", items+"/kernel_id", "")
	compare("image-metadata-post-resp.json", "POST", items, "image-metadata-post-req.json")
	compare("image-metadata-put-resp.json", "PUT", items, "image-metadata-put-req.json")
	compare("image-meta-key-put-resp.json", "PUT", items+"/auto_disk_config", "image-meta-key-put-req.json")
}

// byID sorts a list's images: the samples have no order of their own.
func byID(v any) any {
	if o, ok := v.(map[string]any); ok {
		if list, ok := o["images"].([]any); ok {
			slices.SortFunc(list, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["id"].(string), b.(map[string]any)["id"].(string))
			})
		}
	}
	return v
}
