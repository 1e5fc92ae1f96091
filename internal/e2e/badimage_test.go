package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
)

// complaint runs capsulectl, which must fail with an exit status and say some words on standard error.
func (h *host) complaint(t *testing.T, status int, words []string, args ...string) {
	t.Helper()
	out, err := h.Ctl(t.Context(), args...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != status {
		t.Errorf("capsulectl %.100q: %v (%s), want exit status %d", args, err, out, status)
		return
	}
	for _, w := range words {
		if _, said, _ := strings.Cut(err.Error(), "exit status"); !strings.Contains(said, w) {
			t.Errorf("it does not say %q: %s", w, brief(said))
		}
	}
}

// unfit makes files that are no image, and returns their paths with what the refusal must say.
func unfit(t *testing.T, h *host, dir string) map[string]string {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		if err := os.WriteFile(at(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	made := func(name string, argv ...string) string {
		must(command(t, "qemu-img", append(argv, at(name))...))(t)
		return at(name)
	}
	whole, err := os.ReadFile(h.guest.Qcow2)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(h.guest.Raw)
	if err != nil {
		t.Fatal(err)
	}
	data := made("data.qcow2", "create", "-q", "-f", "qcow2", "-o", "data_file="+at("data.raw")+",data_file_raw=on,size=1M")
	backed := at("backed.qcow2")
	must(command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", h.guest.Qcow2, "-F", "qcow2", backed))(t)
	shadow := at("shadow.qcow2")
	must(command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", shadow, "1M"))(t)
	locked := at("locked.qcow2")
	// qemu-img measures the speed of the cipher, and gives up on a busy machine.
	if err := rig.Until(t.Context(), func() error {
		_, err := command(t, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s", locked, "1M")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	convert := func(format string) string {
		file := at("disk." + format)
		must(command(t, "qemu-img", "convert", "-O", format, h.guest.Raw, file))(t)
		return file
	}
	must(command(t, "gzip", "-k", write("plain.raw", raw[:1<<20])))(t)
	iso := make([]byte, 1<<20)
	copy(iso[0x8000:], "\x01CD001\x01")
	if err := errors.Join(syscall.Mkfifo(at("fifo"), 0o644), os.Symlink("/etc/passwd", at("link"))); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		backed: "backing file", shadow: "backing file", data: "data file", locked: "encrypt",
		write("half.qcow2", whole[:len(whole)/2]): "cut short", write("head.qcow2", whole[:60]): "header", write("half.raw", raw[:len(raw)/2]): "partition",
		convert("vmdk"): "VMDK", convert("vdi"): "VDI", convert("vhdx"): "VHDX", convert("vpc"): "VHD",
		write("text", []byte(strings.Repeat("it is only text\n", 1024))): "partition table", at("plain.raw.gz"): "gzip", write("disk.iso", iso): "partition table",
		dir: "regular file", at("fifo"): "regular file", "/dev/zero": "regular file", "/dev/null": "regular file", h.Socket: "regular file",
		at("missing"): "no such file", at("link"): "", "/etc/shadow": "", "/proc/self/environ": "", write("empty", nil): "empty",
		filepath.Join(h.dir, "capsuled.db"): "database", filepath.Join(h.dir, "capsuled.db-wal"): "",
	}
}

// TestBadImages adds what is no image: the reason reaches the user and the operation, and nothing stays.
func TestBadImages(t *testing.T) {
	h := startHost(t)
	image := h.image()
	dir := t.TempDir()
	files := unfit(t, h, dir)
	h.capsule(image)
	for _, pattern := range []string{"images/*.qcow2", "capsules/*/disk*", "capsules/*/secure_volume*"} {
		ours, err := filepath.Glob(filepath.Join(h.dir, pattern))
		if err != nil || len(ours) == 0 {
			t.Fatal(pattern, err)
		}
		files[ours[0]] = "image store"
	}
	for path, reason := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			before := len(h.operations(t))
			h.complaint(t, 8, []string{reason, strings.TrimPrefix(path, dir)}, "image", "add", "--name", "bad", path)
			ops := h.operations(t)
			if len(ops) != before+1 || ops[0].State != "failed" || ops[0].Code != "invalid" || !strings.Contains(ops[0].Cause, reason) || ops[0].Cause == "" {
				t.Errorf("operation: %+v", ops[0])
			}
		})
	}
	for _, row := range []struct {
		status int
		name   string
		args   []string
	}{
		{4, "an image named", []string{"--name", "guest", h.guest.Qcow2}},
		{9, "name", []string{"--name", "", h.guest.Qcow2}},
		{9, "name", []string{"--name", "a\x1b[2Jb", h.guest.Qcow2}},
		{9, "name", []string{"--name", strings.Repeat("a", 256), h.guest.Qcow2}},
		{9, "name", []string{"--name", uuid.NewString(), h.guest.Qcow2}},
		{9, "path", []string{"--name", "bad", "/srv/a\nb"}},
		{9, "path", []string{"--name", "bad", "/" + strings.Repeat("a", 5000)}},
		{9, "login_user", []string{"--name", "bad", "--login-user", "a b", h.guest.Qcow2}},
	} {
		h.complaint(t, row.status, []string{row.name}, append([]string{"image", "add"}, row.args...)...)
	}
	for body, words := range map[string]string{
		`{"name":"bad","path":"guest.qcow2"}`: "path", `{"name":"bad","path":"../guest.qcow2"}`: "path", `{"path":"/x"}`: "name", `{`: "JSON",
		`{"name":"bad","path":"/x\u0000"}`: "path", `{"name":"bad","path":1}`: "path", `{"name":"bad","name":"bad","path":"/x"}`: "name", `{"Name":"bad","path":"/x"}`: "Name",
	} {
		problem(t, h.ask(t, request{over: "unix", path: "/v1/images", header: http.Header{"Content-Type": {"application/json"}}, body: body}), 400, "invalid", words)
	}
	for _, tok := range []string{as(t, "alice"), token(t, map[string]any{"roles": []string{"admin"}})} { // a file of the host is root's to give
		a := h.send(tok, "POST", "/v1/images", "application/json", fmt.Sprintf(`{"name":"bad","path":%q}`, h.guest.Qcow2))
		problem(t, a, 403, "forbidden")
	}
	h.onlyImage(t, image)
}

func (h *host) operations(t *testing.T) []wire.Operation {
	t.Helper()
	var list wire.OperationList
	if err := json.Unmarshal([]byte(h.ctl("operation", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Operations
}

// onlyImage shows that one image is all that there is, in the records and on the disk.
func (h *host) onlyImage(t *testing.T, id string) {
	t.Helper()
	if got := h.ctl("image", "list", "--quiet"); got != id {
		t.Errorf("images: %q, want %q", got, id)
	}
	for pattern, want := range map[string]int{"images/*.*": 1, "images/incoming/*": 0} {
		if files, err := filepath.Glob(filepath.Join(h.dir, pattern)); err != nil || len(files) != want {
			t.Errorf("%s: %v, %v", pattern, files, err)
		}
	}
}

// TestImageNotToBeUsed creates capsules from images that are unknown, another's, not there yet and on their way out.
func TestImageNotToBeUsed(t *testing.T) {
	o := oneHost(t)
	alice := as(t, "alice")
	private := o.ctl("image", "add", "--name", "private", o.guest.Qcow2)
	unknown := uuid.NewString()
	var said []string
	for _, id := range []string{unknown, strings.ToUpper(unknown), private} {
		a := o.post(alice, "/createvm", o.form("imageid", id))
		refused(t, a, 400, "not_found", "image")
		said = append(said, strings.ReplaceAll(strings.ToLower(a.body), strings.ToLower(id), "ID"))
	}
	if slices.Sort(said); said[0] != said[2] {
		t.Errorf("a private image can be told from an unknown one: %q", said)
	}
	if a := o.send(alice, "GET", "/v1/images", "", ""); strings.Contains(a.body, private) {
		t.Errorf("a private image is listed: %s", a.body)
	}
	problem(t, o.send(alice, "GET", "/v1/images/"+private, "", ""), 404, "not_found")
	problem(t, o.send(alice, "DELETE", "/v1/images/"+private, "", ""), 404, "not_found")
	problem(t, o.send(alice, "DELETE", "/v1/images/"+o.image, "", ""), 403, "forbidden")
	o.ctl("image", "delete", "--yes", "--wait", private)
	refused(t, o.post(as(t, "bob"), "/createvm", o.form("imageid", private)), 400, "not_found", "image")
	o.whole(t)

	// A terabyte of nothing takes minutes to digest; without its source the import ends at the next start.
	file := filepath.Join(t.TempDir(), "endless")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	pending := o.ctl("image", "add", "--name", "endless", "--public", "--wait=false", file)
	refused(t, o.post(alice, "/createvm", o.form("imageid", pending)), 400, "conflict", "SHARE_PENDING")
	o.complaint(t, 4, []string{"image-add has been under way"}, "image", "delete", "--yes", pending)
	o.complaint(t, 4, []string{"endless"}, "image", "add", "--name", "endless", o.guest.Qcow2)
	if err := errors.Join(o.Stop(), os.Remove(file)); err != nil {
		t.Fatal(err)
	}
	o.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if op := o.operations(t)[0]; op.Target != pending || op.State != "failed" || !strings.Contains(op.Cause, "no such file") {
			return fmt.Errorf("the import without a source: %+v", op)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	refused(t, o.post(alice, "/createvm", o.form("imageid", pending)), 400, "not_found", "image")
	o.onlyImage(t, o.image)
	o.whole(t)
}

// TestImageDeletedMeanwhile deletes an image while capsules are made from it: each is refused, or made and sound.
func TestImageDeletedMeanwhile(t *testing.T) {
	h := startHost(t)
	alice := as(t, "alice")
	for range 5 {
		image := h.image()
		var wg sync.WaitGroup
		made := make([]answer, 6)
		for i := range made {
			wg.Go(func() {
				made[i] = h.ask(t, request{path: "/createvm", header: http.Header{"X-Auth-Token": {alice}, "Content-Type": {formType}},
					body: url.Values{"imageid": {image}, "loginusername": {"u"}, "loginpassword": {"p"}, "memory": {"256"}}.Encode()})
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := rig.Until(ctx, func() error { _, err := h.Ctl(ctx, "image", "delete", "--yes", "--wait", image); return err })
		cancel()
		if wg.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, a := range made {
			if a.status == 200 {
				h.wait(a)
			} else if refused(t, a, 400, a.header.Get(wire.ErrorCodeHeader), "image"); !slices.Contains([]string{"conflict", "not_found"}, a.header.Get(wire.ErrorCodeHeader)) {
				t.Errorf("refused: %+v", a)
			}
		}
		if files, err := filepath.Glob(filepath.Join(h.dir, "images", "*.*")); err != nil || len(files) > 0 {
			t.Errorf("left of the image: %v, %v", files, err)
		}
	}
	for _, id := range vmids(h.ctl("list", "--json")) {
		if st := h.status(id); st.State != "SHUTDOWN" {
			t.Errorf("%+v", st)
		}
	}
}
