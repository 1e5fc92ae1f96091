package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/store"
)

// TestAnyOrder does what users, administrators, the collector and the host do to images, in any order and without waiting
// for what is under way. Whatever came of it: no file without a record, no record without its file, every capsule that is
// made has its disk, and the quota is what the records say.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := newBench(t, func(o *daemon.Options) { o.Quota = daemon.Quota{CPUs: 50, MemoryMB: 1 << 20, DiskGB: 1000, Images: 4} })
		defer b.kill()
		for n := range 3 {
			b.machine.urls[fmt.Sprint("https://images.example.org/", n)] = fmt.Sprint("QFI ", n%2) // two have the same bytes
		}
		images := func() []*daemon.Image {
			page, err := b.FindImages(t.Context(), admin, daemon.ImageQuery{ChangedSince: time.Unix(1, 0)})
			if err != nil {
				r.Fatal(err)
			}
			return page.Images
		}
		image := func(r *rapid.T) string {
			all := images()
			if len(all) == 0 {
				r.Skip()
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(r, "image")].ID
		}
		capsule := func(r *rapid.T) string {
			all, err := b.ListCapsules(t.Context(), admin)
			if err != nil || len(all) == 0 {
				r.Skip()
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(r, "capsule")].ID
		}
		user := func(r *rapid.T) daemon.Caller {
			return rapid.SampledFrom([]daemon.Caller{alice, alice, bob}).Draw(r, "user")
		}
		text := func(r *rapid.T) string { return rapid.SampledFrom([]string{"a", "QFI 0", "bad"}).Draw(r, "bytes") }
		// Refusals are part of it: what may be refused when is in tables elsewhere. What is the daemon's own fault is not.
		check := func(err error) {
			if code(err) == daemon.Internal || err != nil && code(err) == "" {
				r.Fatal(err)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"fetch": func(r *rapid.T) {
				_, _, err := b.AddImage(t.Context(), user(r), daemon.NewImage{URL: fmt.Sprint("https://images.example.org/", rapid.IntRange(0, 3).Draw(r, "url"))})
				check(err)
			},
			"upload": func(r *rapid.T) {
				_, _, err := b.AddImage(t.Context(), user(r), daemon.NewImage{Bytes: int64(rapid.SampledFrom([]int{-1, 5}).Draw(r, "announced"))})
				check(err)
			},
			"append": func(r *rapid.T) {
				_, err := b.AppendImage(t.Context(), admin, image(r), int64(rapid.SampledFrom([]int{0, 0, -1, 1}).Draw(r, "offset")), strings.NewReader(text(r)))
				check(err)
			},
			"send":           func(r *rapid.T) { _, err := b.send(t.Context(), user(r), "", text(r)); check(err) },
			"finish":         func(r *rapid.T) { _, err := b.FinishImage(t.Context(), admin, image(r)); check(err) },
			"request":        func(r *rapid.T) { _, err := b.RequestImageDelete(t.Context(), admin, image(r)); check(err) },
			"request active": func(r *rapid.T) { _, err := b.RequestActiveImageDelete(t.Context(), admin, image(r)); check(err) },
			"delete":         func(r *rapid.T) { _, err := b.DeleteImage(t.Context(), admin, image(r)); check(err) },
			"purge":          func(r *rapid.T) { _, err := b.PurgeImage(t.Context(), admin, image(r)); check(err) },
			"verify":         func(r *rapid.T) { _, err := b.VerifyImage(t.Context(), admin, image(r)); check(err) },
			"collect": func(r *rapid.T) {
				_, err := b.CollectImages(t.Context(), admin, rapid.Bool().Draw(r, "dry"))
				check(err)
			},
			"clone":   func(r *rapid.T) { _, _, err := b.CreateCapsule(t.Context(), alice, order(image(r))); check(err) },
			"set":     func(r *rapid.T) { _, err := b.SetImage(t.Context(), admin, image(r), daemon.ImageChange{}); check(err) },
			"destroy": func(r *rapid.T) { _, err := b.DeleteCapsule(t.Context(), alice, capsule(r)); check(err) },
			"share": func(r *rapid.T) {
				_, _, err := b.ShareCapsule(t.Context(), alice, daemon.NewShare{Capsule: capsule(r)})
				check(err)
			},
			"age": func(r *rapid.T) {
				if err := b.exec("UPDATE images SET updated_at = updated_at - 90000000000 WHERE id = ? AND deleted_at IS NULL", image(r)); err != nil {
					r.Fatal(err)
				}
			},
			"cancel": func(r *rapid.T) {
				all, err := b.Operations(t.Context(), admin, daemon.OperationFilter{State: daemon.OperationRunning})
				if err != nil || len(all) == 0 {
					r.Skip()
				}
				_, err = b.CancelOperation(t.Context(), admin, all[0].ID)
				check(err)
			},
			"restart": func(*rapid.T) { b.kill(); b.start() },
			"wait":    func(*rapid.T) { b.idle() },
		})
		b.idle()
		b.settled()
		used, counted := map[string]int{}, map[string]int{}
		b.records(func(tx *store.Tx) error {
			all, err := tx.ImagesChanged(0, time.Unix(0, 0))
			for _, i := range all {
				if i.State == daemon.ImagePending || i.State == daemon.ImageActive {
					counted[i.Owner]++
				}
			}
			for _, who := range []string{"alice", "bob"} {
				u, err := tx.Usage(who, daemon.ImagePending, daemon.ImageActive)
				if used[who] = u.Images; err != nil || u.Images != counted[who] || u.Images > 4 {
					t.Errorf("%s is charged for %d images, %v, and has %d", who, u.Images, err, counted[who])
				}
			}
			return err
		})
		// Nothing is stuck: whatever is there can be taken away, and then nothing is left.
		for _, i := range images() {
			if !i.DeletedAt.IsZero() {
				continue
			}
			op, err := b.DeleteImage(t.Context(), admin, i.ID)
			if code(err) == daemon.Gone {
				op, err = b.PurgeImage(t.Context(), admin, i.ID)
			}
			b.succeed(op, err)
		}
		b.settled()
		b.machine.mu.Lock()
		if len(b.machine.images)+len(b.machine.uploads) > 0 {
			t.Errorf("left are %v, %v", b.machine.images, b.machine.uploads)
		}
		b.machine.mu.Unlock()
		if t.Failed() {
			r.FailNow()
		}
	})
}
