package imagestore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// model is what the records of a caller would say, and the store that should agree with them.
type model struct {
	t       *testing.T
	dir     string
	store   *imagestore.Store
	sources []string // files to import
	digests []imagestore.Digest
	images  map[imagestore.Digest]bool
	clones  map[string]int  // key -> source
	written map[string]byte // key -> pattern at 512 KiB
	overlay map[string]bool // by key
	ram     map[string]bool // by key
}

func (m *model) reopen() {
	if m.store != nil {
		if err := m.store.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
	m.store = open(m.t, imagestore.Options{Dir: m.dir})
}

func (m *model) actions() map[string]func(*rapid.T) {
	ctx := m.t.Context()
	source := rapid.IntRange(0, len(m.sources)-1)
	keys := rapid.Map(rapid.IntRange(0, 3), key)
	return map[string]func(*rapid.T){
		"import": func(r *rapid.T) {
			i := source.Draw(r, "source")
			img, err := m.store.Import(ctx, m.sources[i], nil)
			if err != nil || img.Digest != m.digests[i] {
				r.Fatal(img, err)
			}
			m.images[img.Digest] = true
		},
		"remove": func(r *rapid.T) {
			d := m.digests[source.Draw(r, "source")]
			if err := m.store.Remove(ctx, d); err != nil {
				r.Fatal(err)
			}
			delete(m.images, d)
		},
		"clone": func(r *rapid.T) {
			i, k := source.Draw(r, "source"), keys.Draw(r, "key")
			_, err := m.store.Clone(ctx, k, m.digests[i], 0)
			_, there := m.clones[k]
			switch {
			case there && err == nil:
			case m.images[m.digests[i]] && err == nil:
				m.clones[k] = i
			case !there && !m.images[m.digests[i]] && errors.Is(err, imagestore.ErrNotFound):
			default:
				r.Fatal(err)
			}
		},
		"write": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			if _, ok := m.clones[k]; ok {
				m.written[k] = rapid.ByteMin(1).Draw(r, "pattern")
				m.io(k, fmt.Sprintf("write -P %d 512k 64k", m.written[k]))
			}
		},
		"erase": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			if err := m.store.Erase(ctx, k); err != nil {
				r.Fatal(err)
			}
			m.forget(k)
		},
		"prepare": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			_, there := m.clones[k]
			c, err := m.store.PrepareCleanPoint(ctx, k, 1)
			switch {
			case there && err == nil:
				m.overlay[k] = true
				delete(m.ram, k)
				if rapid.Bool().Draw(r, "save") {
					plant(m.t, c.RAM)
					m.ram[k] = true
				}
			case !there && errors.Is(err, imagestore.ErrNotFound):
			default:
				r.Fatal(err)
			}
		},
		"drop overlay": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			if err := m.store.DropOverlay(ctx, k); err != nil {
				r.Fatal(err)
			}
			delete(m.overlay, k)
		},
		"drop RAM": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			if err := m.store.DropRAM(ctx, k); err != nil {
				r.Fatal(err)
			}
			delete(m.ram, k)
		},
		"forget clone": func(r *rapid.T) { // its record went, then the machine
			m.forget(keys.Draw(r, "key"))
			m.restart(r)
		},
		"forget image": func(r *rapid.T) {
			delete(m.images, m.digests[source.Draw(r, "source")])
			m.restart(r)
		},
		"crash": func(r *rapid.T) {
			k := keys.Draw(r, "key")
			plant(m.t, filepath.Join(m.dir, "images", "incoming", "HALF"))
			plant(m.t, filepath.Join(m.dir, "capsules", ".erasing-"+k, "disk.raw"))
			for _, name := range []string{".new-disk", ".new-overlay.qcow2", ".new-clean.ram"} {
				plant(m.t, filepath.Join(m.dir, "capsules", k, name))
			}
			m.restart(r)
		},
		"": m.check,
	}
}

// forget drops the record of a clone and of all that it has.
func (m *model) forget(k string) {
	delete(m.clones, k)
	delete(m.written, k)
	delete(m.overlay, k)
	delete(m.ram, k)
}

// restart is what the daemon does when it starts: open, and sweep by the records.
func (m *model) restart(r *rapid.T) {
	m.reopen()
	keys := map[string]bool{}
	for k := range m.clones {
		keys[k] = true
	}
	if _, err := m.store.Sweep(m.t.Context(), m.images, keys); err != nil {
		r.Fatal(err)
	}
}

// check wants exactly the files that the model has, nothing orphaned and nothing missing.
func (m *model) check(r *rapid.T) {
	want := slices.Clone(emptyTree)
	for d := range m.images {
		format := "raw"
		if d == m.digests[2] {
			format = "qcow2"
		}
		want = append(want, "images/"+strings.TrimPrefix(string(d), "sha256:")+"."+format)
	}
	for k := range m.clones {
		files, err := m.store.Files(m.t.Context(), k)
		if err != nil {
			r.Fatal(err)
		}
		want = append(want, "capsules/"+k, "capsules/"+k+"/"+filepath.Base(files["disk"].Path))
		if base := files["disk"].Base; base != "" {
			want = append(want, "capsules/"+k+"/"+filepath.Base(base))
		}
	}
	for k := range m.overlay {
		want = append(want, "capsules/"+k+"/overlay.qcow2")
	}
	for k := range m.ram {
		want = append(want, "capsules/"+k+"/clean.ram")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, tree(m.t, m.dir)); diff != "" {
		r.Fatal(diff)
	}
}

// io runs one qemu-io command on a clone.
func (m *model) io(k, cmd string) {
	files, err := m.store.Files(m.t.Context(), k)
	if err != nil {
		m.t.Fatal(err)
	}
	run(m.t, "qemu-io", "-f", string(files["disk"].Format), "-c", cmd, files["disk"].Path)
}

// contents wants every clone to read as its source with its own writes, and no other's.
func (m *model) contents() {
	for _, k := range slices.Sorted(maps.Keys(m.clones)) {
		files, err := m.store.Files(m.t.Context(), k)
		if err != nil {
			m.t.Fatal(err)
		}
		if pattern, ok := m.written[k]; ok {
			m.io(k, fmt.Sprintf("read -P %d 512k 64k", pattern))
			m.io(k, "write -z 512k 64k") // as in every source
		}
		same(m.t, files["disk"], m.sources[m.clones[k]], map[bool]string{true: "qcow2", false: "raw"}[m.clones[k] == 2])
	}
}

// Any interleaving of what a caller can do leaves no orphan and no broken clone.
func TestAnyOrder(t *testing.T) {
	sources := []string{rawDisk(t, 1, mib), rawDisk(t, 3, mib), qcow2Disk(t, rawDisk(t, 5, mib))}
	var digests []imagestore.Digest
	for _, s := range sources {
		digests = append(digests, digestOf(t, s))
	}
	for _, fs := range fileSystems[:2] {
		t.Run(fs.kind, func(t *testing.T) {
			at, runs := testhost.LoopFS(t, fs.kind, fs.bytes), 0
			rapid.Check(t, func(r *rapid.T) {
				runs++
				m := &model{
					t: t, dir: filepath.Join(at, fmt.Sprint(runs)), sources: sources, digests: digests,
					images: map[imagestore.Digest]bool{}, clones: map[string]int{}, written: map[string]byte{},
					overlay: map[string]bool{}, ram: map[string]bool{},
				}
				m.reopen()
				r.Repeat(m.actions())
				m.contents()
				m.images, m.clones, m.overlay, m.ram = nil, nil, nil, nil
				m.restart(r)
				m.check(r)
				if err := errors.Join(m.store.Close(), os.RemoveAll(m.dir)); err != nil {
					r.Fatal(err)
				}
			})
		})
	}
}
