package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/api/wire"
)

// secretText is in each file that must not travel, so that no byte of it may be in an image.
const secretText = "must-not-travel"

// mustGo and mustEmpty are files that the configuration as shipped does not let travel.
var (
	mustGo = []string{
		"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key.pub", "/root/.ssh/authorized_keys", "/home/dcuser/.ssh/authorized_keys",
		"/root/.htrc", "/home/dcuser/.htrc", "/root/.bash_history", "/home/dcuser/.ash_history", "/root/.zsh_history", "/root/.python_history",
		"/root/.lesshst", "/var/lib/cloud/instance/user-data.txt", "/var/lib/cloud/instances/i-1/vendor-data.txt", "/var/lib/systemd/random-seed",
		"/var/lib/dbus/machine-id",
	}
	mustEmpty = []string{"/etc/machine-id"}
	mustStay  = map[string]string{"/root/marker": "marked", "/home/dcuser/results.txt": "results", "/etc/ssh/sshd_config": "Port 22"}
)

// burden writes what must not travel beside what must, and removes one secret again, whose bytes are then in free blocks.
func burden() string {
	var s strings.Builder
	s.WriteString("set -e; mkdir -p /etc/ssh /var/lib/cloud/instance /var/lib/cloud/instances/i-1 /var/lib/systemd /var/lib/dbus\n")
	for _, name := range mustGo {
		fmt.Fprintf(&s, "i=0; while [ $i -lt 50 ]; do echo %s-%s; i=$((i+1)); done >>%s\n", "must-not'-'travel", filepath.Base(name), name)
	}
	for name, text := range mustStay {
		fmt.Fprintf(&s, "echo '%s' >%s\n", text, name)
	}
	s.WriteString("cp /root/.htrc /root/old; ln /root/.htrc /root/another-name; sync; rm /root/old; sync")
	return s.String()
}

// TestShareCapsule makes images of a capsule that somebody worked in: what each dialect says meanwhile, what travels, what
// may not be shared, and what remains when an image goes.
func TestShareCapsule(t *testing.T) {
	g := newGate(t)
	h := startHost(t, "quota.images = 3", `secure.mount_wait = "5s"`)
	base := h.image()
	alice := as(t, "alice")
	id := h.aliceCapsule(base)
	h.wait(h.launch(alice, id))
	h.ssh(id, burden())
	machine := h.ssh(id, "cat /etc/machine-id")

	refused(t, h.share(alice, id, "shared", "false"), 400, "conflict", "RUNNING")
	h.ctl("switch", "--wait", id, "secure")
	refused(t, h.share(alice, id, "shared", "false"), 400, "conflict", "RUNNING")
	h.ctl("stop", "--wait", id) // what was written before is in the journal of its file system: nobody unmounted it
	h.shareRefused(id)

	image := h.shareWatched(g, id)
	if n := h.room(alice); n != 2 {
		t.Errorf("with one image there is room for %d more, and the quota is 3", n)
	}
	h.clean(h.export(alice, image))
	h.wait(h.launch(alice, id))
	if got := h.ssh(id, "cat /root/marker /etc/machine-id; grep -c . /root/.htrc"); got != "marked\n"+machine+"\n50" {
		t.Errorf("sharing changed the capsule itself: %q", got)
	}
	h.ctl("stop", "--wait", id)
	h.shareFails()
	h.forget(alice, image)
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}

	// With the key left in there is a way into what is made of the image, to look at it from inside.
	next := newHost(t, h.dir, "quota.images = 3", `images.clean_remove = ["/etc/ssh/ssh_host_*", ".htrc", ".*_history", "/etc/dropbear/host_*"]`)
	next.start()
	next.clone(id, machine)
}

func (h *host) aliceCapsule(image string) string {
	h.t.Helper()
	made := h.post(as(h.t, "alice"), "/createvm", map[string][]string{"imageid": {image}, "loginusername": {"dcuser"}, "loginpassword": {"secret"}, "memory": {"256"}})
	h.wait(made)
	return read[wire.Created](h.t, made).VMID
}

func (h *host) launch(tok, id string) answer {
	h.t.Helper()
	return h.post(tok, "/launchvm", map[string][]string{"vmid": {id}})
}

// shareRefused asks for what cannot be: nothing of it may stay.
func (h *host) shareRefused(id string) {
	t, alice := h.t, as(h.t, "alice")
	t.Helper()
	refused(t, h.share(as(t, "bob"), id, "shared", "false"), 400, "not_found", "no capsule")
	problem(t, h.call(as(t, "bob"), 404, "POST", "/v1/capsules/"+id+"/share", `{"name":"shared","public":false}`), 404, "not_found")
	refused(t, h.share(alice, id, "guest", "false"), 400, "conflict", "guest")
	refused(t, h.share(alice, id, "shared", "true"), 400, "forbidden", "public")
	refused(t, h.share(alice, id, "", "false"), 400, "invalid", "imageName")
	var made []string
	for i := range 3 {
		made = append(made, h.awaitImage(alice, fmt.Sprint("full ", i), ""))
	}
	refused(t, h.share(alice, id, "shared", "false"), 400, "over_quota", "quota of images is 3")
	for _, image := range made {
		h.call(alice, 200, "DELETE", "/v1/images/"+image+"?later=true", "")
	}
	if st := h.status(id); st.State != "SHUTDOWN" || st.Cause != nil {
		t.Errorf("after what was refused the capsule is %s: %s", st.State, said(st.Cause))
	}
	if list := read[wire.ImageInfoList](t, h.call(alice, 200, "GET", "/listmyimages", "")); len(list.ImageInfo) != 0 {
		t.Errorf("after what was refused alice has %+v", list.ImageInfo)
	}
	h.kept(1)
}

// shareWatched shares a capsule and looks at it through every dialect before, while and after its disk is copied.
func (h *host) shareWatched(g *gate, id string) wire.Image {
	t, alice := h.t, as(h.t, "alice")
	t.Helper()
	var a answer
	release := g.hold(t, func() { a = h.share(alice, id, "shared", "false") })
	info := read[wire.ImageInfo](t, a)
	if a.status != 200 || info.ImageStatus != "SHARE_PENDING" || info.ImageName != "shared" || info.Owner != "alice" || info.SourceVM == nil || *info.SourceVM != id || info.Public {
		t.Fatalf("shareimage: %d %s", a.status, a.body)
	}
	if st := h.status(id); st.State != "IMAGE_SHARE_PENDING" {
		t.Errorf("while it is shared the capsule is %s", st.State)
	}
	seen := h.views(alice, info.ImageID)
	if diff := cmp.Diff(queued, seen); diff != "" && !cmp.Equal(saving, seen) {
		t.Errorf("while it is shared: %s", diff)
	}
	refused(t, h.launch(alice, id), 400, "busy", "image-share")
	refused(t, h.share(alice, id, "another", "false"), 400, "busy", "image-share")
	h.call(alice, 409, "DELETE", "/v2.1/images/"+info.ImageID, "")
	if n := h.room(alice); n != 2 {
		t.Errorf("while one is shared there is room for %d more images, and the quota is 3", n)
	}
	release()
	h.wait(a)
	if diff := cmp.Diff(active, h.views(alice, info.ImageID)); diff != "" {
		t.Errorf("once it is shared: %s", diff)
	}
	if st := h.status(id); st.State != "SHUTDOWN" || st.Cause != nil {
		t.Errorf("once it is shared the capsule is %s: %s", st.State, said(st.Cause))
	}
	image := h.becomes(alice, info.ImageID, "ACTIVE")
	if image.SourceCapsule != id || image.Metadata["image_type"] != "snapshot" || image.Visibility != "private" {
		t.Errorf("the image: %+v", image)
	}
	return image
}

// clean looks for what must not travel in the bytes of an image: by their names, and for the secret anywhere on the disk.
func (h *host) clean(exported []byte) {
	t := h.t
	t.Helper()
	dir := t.TempDir()
	file, raw := filepath.Join(dir, "exported"), filepath.Join(dir, "raw")
	if err := os.WriteFile(file, exported, 0o600); err != nil {
		t.Fatal(err)
	}
	must(command(t, "qemu-img", "convert", "-O", "raw", file, raw))(t)
	disk := raw + "?offset=1048576" // the guest's one partition
	if out, err := command(t, "e2fsck", "-fn", disk); err != nil {
		t.Errorf("the file system of the image: %v\n%s", err, out)
	}
	look := func(name string) string {
		out, err := command(t, "debugfs", "-R", "cat "+name, disk)
		if err != nil {
			t.Fatal(err, out)
		}
		_, out, _ = strings.Cut(out, "\n") // its name and version
		return out
	}
	for name, want := range mustStay {
		if got := look(name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	for _, name := range append([]string{"/root/another-name"}, mustGo...) {
		if got := look(name); !strings.Contains(got, "File not found") {
			t.Errorf("%s is there: %.200s", name, got)
		}
	}
	for _, name := range mustEmpty {
		if got := look(name); got != "" {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if out, err := command(t, "grep", "-c", "-a", secretText, raw); err == nil {
		t.Errorf("the secret is still somewhere on the disk, in %s lines", out)
	}
}

// shareFails shares a capsule whose disk cannot be cleaned.
func (h *host) shareFails() {
	t, alice := h.t, as(h.t, "alice")
	t.Helper()
	before := h.room(alice)
	odd := h.ctl("image", "add", "--name", "odd", "--public", h.file("odd", 2<<20))
	id := h.aliceCapsule(odd)
	a := h.share(alice, id, "unclean", "false")
	image := read[wire.ImageInfo](t, a).ImageID
	if op := h.ended(operationOf(a)); op.State != "failed" || op.Code != "unsupported" || op.Cause == "" {
		t.Errorf("a disk that cannot be cleaned: %+v", op)
	}
	if diff := cmp.Diff(failed, h.views(alice, image)); diff != "" {
		t.Errorf("of what could not be shared: %s", diff)
	}
	if tomb := h.becomes(alice, image, "ERROR"); !strings.Contains(tomb.Cause, "ext") {
		t.Errorf("it does not say why: %q", tomb.Cause)
	}
	if st := h.status(id); st.State != "SHUTDOWN" {
		t.Errorf("after a share that failed the capsule is %s", st.State)
	}
	if n := h.room(alice); n != before {
		t.Errorf("a share that failed leaves room for %d images, and there was room for %d", n, before)
	}
	h.call(alice, 200, "GET", "/checkimagename?imageName=unclean", "")
	h.ctl("delete", "--yes", "--wait", id)
	h.ctl("image", "delete", "--yes", "--wait", odd)
	h.kept(2)
}

// forget deletes an image in two steps, the one for users and the one for the disk.
func (h *host) forget(tok string, image wire.Image) {
	t := h.t
	t.Helper()
	before := h.room(tok)
	files, _ := filepath.Glob(filepath.Join(h.dir, "images", "*.*"))
	h.call(tok, 204, "DELETE", "/v2.1/images/"+image.ID, "")
	if diff := cmp.Diff(leaving, h.views(tok, image.ID)); diff != "" {
		t.Errorf("once it is deleted: %s", diff)
	}
	h.call(tok, 403, "DELETE", "/v2.1/images/"+image.ID, "")
	h.call(tok, 404, "DELETE", "/api/v1.1/images/"+image.ID, "")
	h.call(tok, 404, "DELETE", "/compute/v2.0/images/"+image.ID, "")
	if n := h.room(tok); n != before+1 {
		t.Errorf("deleting one leaves room for %d images, and there was room for %d", n, before)
	}
	if out := h.ctl("image", "gc", "--dry-run"); !strings.Contains(out, image.ID) {
		t.Errorf("gc --dry-run: %s", out)
	}
	h.kept(len(files))
	if out := h.ctl("image", "gc"); !strings.Contains(out, image.ID) {
		t.Errorf("gc: %s", out)
	}
	h.becomes(tok, image.ID, "DELETED")
	if diff := cmp.Diff(deleted, h.views(tok, image.ID)); diff != "" {
		t.Errorf("once it is collected: %s", diff)
	}
	h.kept(len(files) - 1)
	if out, err := h.Ctl(t.Context(), "image", "gc"); err != nil || out != "" {
		t.Errorf("gc once more: %q, %v", out, err)
	}
}

// clone makes a capsule of a capsule's image, looks around in it, and takes the image away beneath it.
func (h *host) clone(id, machine string) {
	t, alice := h.t, as(h.t, "alice")
	t.Helper()
	a := h.share(alice, id, "shared", "false") // the name is free again
	h.wait(a)
	image := h.becomes(alice, read[wire.ImageInfo](t, a).ImageID, "ACTIVE")
	second := h.aliceCapsule(image.ID)
	h.wait(h.launch(alice, second))
	look := "cat /root/marker; cat /etc/machine-id; ls /root/.htrc /home/dcuser/.htrc /root/another-name /root/.bash_history /home/dcuser/.ash_history /etc/ssh/ssh_host_* 2>/dev/null; wc -l </root/.ssh/authorized_keys"
	got := strings.Split(h.ssh(second, look), "\n")
	if len(got) != 3 || got[0] != "marked" || len(got[1]) != 32 || got[1] == machine || strings.TrimSpace(got[2]) != "51" {
		t.Errorf("inside a capsule made of the image: %q; the first was machine %s", got, machine)
	}
	h.ctl("stop", "--wait", second)
	h.forget(alice, image)
	h.wait(h.launch(alice, second))
	if got := h.ssh(second, "cat /root/marker"); got != "marked" {
		t.Errorf("without the image the capsule made of it says %q", got)
	}
}
