package api

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// document is what the tests need of openapi.yaml: the keys of every block mapping, by the path of its parents. The
// file keeps to two spaces for each level, so that no YAML parser is needed.
type document map[string][]string

func parseDocument(t *testing.T) document {
	t.Helper()
	doc := document{}
	var parents []string
	key := regexp.MustCompile(`^( *)"?([^":]+)"?:(?: |$)`)
	for line := range strings.Lines(string(openAPI)) {
		m := key.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		depth := len(m[1]) / 2
		if depth > len(parents) {
			continue // the continuation of a folded text
		}
		parents = append(parents[:depth:depth], m[2])
		at := strings.Join(parents[:depth], " ")
		doc[at] = append(doc[at], m[2])
	}
	return doc
}

func TestDocumentHasEveryRoute(t *testing.T) {
	doc := parseDocument(t)
	want := map[string][]string{}
	for _, rt := range routes {
		for _, p := range rt.paths() {
			method := strings.ToLower(rt.method)
			if strings.HasPrefix(p, capsulePrefix) {
				method = "{$ref"
				if !strings.Contains(string(openAPI), "  "+p+`: {$ref: "#/paths/~1`+strings.TrimPrefix(p, capsulePrefix+"/")+`"}`+"\n") {
					t.Errorf("%s does not refer to its twin", p)
				}
				want[p] = nil
				continue
			}
			want[p] = append(want[p], method)
		}
	}
	got := map[string][]string{}
	for _, p := range doc["paths"] {
		got[p] = doc["paths "+p]
	}
	for _, ms := range []map[string][]string{want, got} {
		for _, m := range ms {
			slices.Sort(m)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-routes +document):\n%s", diff)
	}
}

func TestDocumentHasEveryField(t *testing.T) {
	doc := parseDocument(t)
	want := map[string][]string{"Code": nil}
	for _, body := range []any{wire.Error{}, wire.Created{}, wire.StatusList{}, wire.Status{}, wire.Role{}, wire.VMList{}, wire.VMInfo{}, wire.Problem{},
		wire.NewImage{}, wire.Image{}, wire.ImageList{}, wire.ImageChange{}, wire.NewShare{}, wire.ImageUpload{}, wire.ImageWaste{}, wire.ImageWasteList{},
		wire.ImageInfoList{}, wire.ImageInfo{}, wire.Accepted{}, wire.Operation{}, wire.Step{}, wire.OperationList{}, wire.Health{},
		wire.CapsuleType{}, wire.Proof{}, wire.Check{}, wire.Chain{}, wire.SwitchRecord{}, wire.SwitchRecordList{}, wire.Policy{}, wire.PolicyList{},
		wire.PolicyView{}, wire.Traffic{}, wire.Explanation{}, wire.Finding{}, wire.FindingList{}} {
		want[reflect.TypeOf(body).Name()] = jsonNames(reflect.TypeOf(body))
	}
	for name, ps := range map[string]params{"CreateCapsule": createParams, "Capsule": vmidParams, "SwitchCapsule": switchParams, "Show": showParams,
		"ShareImage": shareParams, "DescribeImage": describeParams, "ImageID": imageIDParams} {
		for _, p := range ps {
			want[name] = append(want[name], p.name)
		}
	}
	got := map[string][]string{}
	for _, name := range doc["components schemas"] {
		got[name] = doc["components schemas "+name+" properties"]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("schemas (-code +document):\n%s", diff)
	}
}

// Who makes a client of the document may send what the daemon takes.
func TestDocumentHasTheBounds(t *testing.T) {
	for _, row := range []struct {
		field, bound string
		want         int
	}{{"name: {type: string, minLength", "maxLength", daemon.MaxImageName}, {"imageName: {type: string, minLength", "maxLength", daemon.MaxImageName},
		{"min_disk_gb: {type: integer, minimum", "maximum", daemon.MaxImageMinDisk}, {"min_ram_mb: {type: integer, minimum", "maximum", daemon.MaxImageMinRAM}} {
		found := regexp.MustCompile(` `+regexp.QuoteMeta(row.field)+`.*`+row.bound+`: (\d+)}`).FindAllStringSubmatch(string(openAPI), -1)
		if len(found) < 2 {
			t.Errorf("%s: %d times", row.field, len(found))
		}
		for _, m := range found {
			if m[1] != strconv.Itoa(row.want) {
				t.Errorf("%s: %s, want %d", row.field, m[1], row.want)
			}
		}
	}
}

// The parameters of a query are those of the code, and each response that a route names is there.
func TestDocumentHasEveryParameter(t *testing.T) {
	named := regexp.MustCompile(`name: ([\w-]+), in: query`)
	for operation, ps := range map[string]params{"listOperations": operationsParams, "showOperation": operationParams, "listImages": imagesParams,
		"deleteImage": deleteParams, "collectImages": gcParams, "uploadImage": uploadParams, "checkImageName": imageNameParams, "getImage": imageIDParams,
		"explainPacket": explainParams, "showImage": noParams} {
		_, rest, ok := strings.Cut(string(openAPI), "      operationId: "+operation+"\n")
		rest, _, _ = strings.Cut(rest, "      responses:\n")
		var got, want []string
		for _, m := range named.FindAllStringSubmatch(rest, -1) {
			got = append(got, m[1])
		}
		for _, p := range ps {
			want = append(want, p.name)
		}
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s (-code +document):\n%s", operation, diff)
		}
	}
}

func TestDocumentHasEveryCode(t *testing.T) {
	_, list, _ := strings.Cut(string(openAPI), "    Code:\n      type: string\n      enum:\n")
	var got []daemon.Code
	for line := range strings.Lines(list) {
		code, ok := strings.CutPrefix(line, "        - ")
		if !ok {
			break
		}
		got = append(got, daemon.Code(strings.TrimSpace(code)))
	}
	slices.Sort(got)
	for _, d := range []*envelope{capsuleEnvelope, nativeEnvelope} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(d.status)), got); diff != "" {
			t.Errorf("%s (-table +document):\n%s", d.name, diff)
		}
	}
}

func TestDocumentRefersToWhatItHas(t *testing.T) {
	doc := parseDocument(t)
	for _, m := range regexp.MustCompile(`\$ref: "#/components/(\w+)/(\w+)"`).FindAllStringSubmatch(string(openAPI), -1) {
		if !slices.Contains(doc["components "+m[1]], m[2]) {
			t.Errorf("%s refers to nothing", m[0])
		}
	}
}

func TestDialectOfPaths(t *testing.T) {
	for path, want := range map[string]*envelope{"/v1": nativeEnvelope, "/v1/x": nativeEnvelope, "/v1x": capsuleEnvelope, "/healthz": nativeEnvelope,
		"/metrics": nativeEnvelope, "/": capsuleEnvelope, "": capsuleEnvelope, "/sloan-ws/v1/x": capsuleEnvelope, "/createvm": capsuleEnvelope} {
		if got := envelopeOf(path); got != want {
			t.Errorf("%q is %s", path, got.name)
		}
	}
}
