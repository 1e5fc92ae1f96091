package imagestore_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

func plant(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("planted"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// A sweep after a crash at every point removes exactly what no record names.
func TestSweep(t *testing.T) {
	s, dir := newStore(t)
	if err := s.Prepare(t.Context(), []imagestore.Volume{secureVolume}); err != nil {
		t.Fatal(err)
	}
	kept, lost := add(t, s, rawDisk(t, 1, mib)), add(t, s, rawDisk(t, 2, mib))
	clone(t, s, keyA, kept.Digest)
	b := clone(t, s, keyB, lost.Digest)
	before := tree(t, dir)

	outside := filepath.Join(t.TempDir(), "precious")
	plant(t, filepath.Join(outside, "file"))
	zeros := strings.Repeat("0", 64)
	orphans := []string{
		"capsules/.erasing-" + key(3), "capsules/.new-PROBE", "capsules/" + key(4), "capsules/" + key(5),
		"capsules/" + keyA + "/.new-disk", "images/" + zeros + ".raw", "images/" + zeros + ".qcow2",
		"images/incoming/HALF", "images/incoming/LINK", "templates/.new-secure_volume-67108864-8192.raw",
	}
	plant(t, filepath.Join(dir, orphans[0], "disk.raw"))
	plant(t, filepath.Join(dir, orphans[1]))
	plant(t, filepath.Join(dir, orphans[2], "deep", "er", "file"))
	link(t, outside, filepath.Join(dir, orphans[2], "way-out"))
	link(t, outside, filepath.Join(dir, orphans[3]))
	plant(t, filepath.Join(dir, orphans[4]))
	plant(t, filepath.Join(dir, orphans[5]))
	link(t, filepath.Join(outside, "file"), filepath.Join(dir, orphans[6]))
	plant(t, filepath.Join(dir, orphans[7]))
	link(t, outside, filepath.Join(dir, orphans[8]))
	plant(t, filepath.Join(dir, orphans[9]))
	plant(t, filepath.Join(dir, "images", "README")) // not the store's: the operator's business

	removed, err := s.Sweep(t.Context(), map[imagestore.Digest]bool{kept.Digest: true, lost.Digest: true}, map[string]bool{keyA: true, keyB: true})
	slices.Sort(orphans)
	if diff := cmp.Diff(orphans, removed); err != nil || diff != "" {
		t.Error(err, diff)
	}
	want := append(slices.Clone(before), "images/README")
	slices.Sort(want)
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"file"}, tree(t, outside)); diff != "" {
		t.Error("a link was followed:", diff)
	}
	// An image that is in no record goes, its clone stays whole.
	removed, err = s.Sweep(t.Context(), map[imagestore.Digest]bool{kept.Digest: true}, map[string]bool{keyA: true, keyB: true})
	if len(removed) != 1 || err != nil {
		t.Error(removed, err)
	}
	same(t, b, rawDisk(t, 2, mib), "raw")
	removed, err = s.Sweep(t.Context(), nil, nil)
	if len(removed) != 3 || err != nil {
		t.Error(removed, err)
	}
}

// What cannot be removed is reported and counted, and does not keep the sweep from the rest.
func TestSweepGoesOn(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	dir := filepath.Join(testhost.LoopFS(t, "ext4", 64*mib), "state")
	s := open(t, imagestore.Options{Dir: dir, Registerer: registry})
	stuck := filepath.Join(dir, "capsules", keyA, "disk.raw")
	plant(t, stuck)
	plant(t, filepath.Join(dir, "capsules", keyB, "disk.raw"))
	run(t, "chattr", "+i", stuck)
	removed, err := s.Sweep(t.Context(), nil, nil)
	if diff := cmp.Diff([]string{"capsules/" + keyB}, removed); err == nil || diff != "" {
		t.Error(err, diff)
	}
	wantOrphans(t, registry, 1)
	run(t, "chattr", "-i", filepath.Join(dir, "capsules", ".erasing-"+keyA, "disk.raw"))
	if _, err := s.Sweep(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	wantOrphans(t, registry, 0)
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func wantOrphans(t *testing.T, r prometheus.Gatherer, clones int) {
	t.Helper()
	want := `# HELP capsuled_orphans Files that no record names and that the last sweep could not remove.
# TYPE capsuled_orphans gauge
capsuled_orphans{kind="clone"} ` + string(rune('0'+clones)) + `
capsuled_orphans{kind="image"} 0
capsuled_orphans{kind="partial"} 0
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "capsuled_orphans"); err != nil {
		t.Error(err)
	}
}

// An import under way is no orphan.
func TestSweepDuringImport(t *testing.T) {
	s, _ := newStore(t)
	_, err := s.Import(t.Context(), rawDisk(t, 1, mib), func(string, int64, int64) {
		if removed, err := s.Sweep(t.Context(), nil, nil); err != nil || len(removed) > 0 && strings.Contains(removed[0], "incoming") {
			t.Error(removed, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestErase(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			dir := filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")
			s := open(t, imagestore.Options{Dir: dir})
			source := rawDisk(t, 1, mib)
			img := add(t, s, source)
			if err := s.Prepare(t.Context(), []imagestore.Volume{secureVolume}); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			f := clone(t, s, keyA, img.Digest)
			if _, err := s.CloneVolume(t.Context(), keyA, secureVolume); err != nil {
				t.Fatal(err)
			}
			outside := filepath.Join(t.TempDir(), "precious")
			plant(t, filepath.Join(outside, "file"))
			link(t, filepath.Join(outside, "file"), filepath.Join(filepath.Dir(f.Path), "link.raw"))
			link(t, outside, filepath.Join(filepath.Dir(f.Path), "link"))
			elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
			plant(t, elsewhere)
			if err := os.Link(elsewhere, filepath.Join(filepath.Dir(f.Path), "shared.raw")); err != nil {
				t.Fatal(err)
			}
			held, err := os.Open(f.Path) // as a process would that should have ended
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			for range 2 {
				if err := s.Erase(t.Context(), keyA); err != nil {
					t.Fatal(err)
				}
			}
			if left, err := io.ReadAll(held); err != nil || len(left) != 0 {
				t.Errorf("%d bytes can still be read, %v", len(left), err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
			same(t, clone(t, s, keyB, img.Digest), source, "raw") // the image is whole
			for _, path := range []string{filepath.Join(outside, "file"), elsewhere} {
				if b, err := os.ReadFile(path); string(b) != "planted" {
					t.Error("emptied by way of a link:", path, err)
				}
			}
			// A crash in the middle: the directory has its last name already, and the key is used again.
			if err := os.Rename(filepath.Join(dir, "capsules", keyB), filepath.Join(dir, "capsules", ".erasing-"+keyB)); err != nil {
				t.Fatal(err)
			}
			clone(t, s, keyB, img.Digest)
			if err := s.Erase(t.Context(), keyB); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nothing is done by way of a symbolic link that stands where the store's own things should be.
func TestPlantedLinks(t *testing.T) {
	s, dir := newStore(t)
	img := add(t, s, rawDisk(t, 1, mib))
	outside := t.TempDir()
	link(t, outside, filepath.Join(dir, "capsules", keyA))
	if f, err := s.Clone(t.Context(), keyA, img.Digest, 0); err == nil {
		t.Errorf("cloned to %+v", f)
	}
	clone(t, s, keyB, img.Digest)
	disk := filepath.Join(dir, "capsules", keyB, "disk.qcow2")
	if err := os.Rename(disk, filepath.Join(outside, "moved")); err != nil {
		t.Fatal(err)
	}
	link(t, filepath.Join(outside, "moved"), disk)
	if files, err := s.Files(t.Context(), keyB); err == nil {
		t.Errorf("lists %+v", files)
	}
	for _, k := range []string{keyA, keyB} {
		if err := s.Erase(t.Context(), k); err != nil {
			t.Error(err)
		}
	}
	image := filepath.Join(dir, "images", strings.TrimPrefix(string(img.Digest), "sha256:")+".raw")
	if err := os.Rename(image, filepath.Join(outside, "image")); err != nil {
		t.Fatal(err)
	}
	link(t, filepath.Join(outside, "image"), image)
	if got, err := s.Stat(t.Context(), img.Digest); err == nil {
		t.Errorf("describes %+v", got)
	}
	if diff := cmp.Diff([]string{"image", "moved"}, tree(t, outside)); diff != "" {
		t.Error(diff)
	}
	// A whole room that leads elsewhere is no store.
	elsewhere := t.TempDir()
	link(t, outside, filepath.Join(elsewhere, "capsules"))
	if _, err := imagestore.Open(imagestore.Options{Dir: elsewhere, Log: slog.New(slog.DiscardHandler), ReaderGID: -1}); err == nil {
		t.Error("opened by way of a link")
	}
}

func TestOpen(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, opt := range []imagestore.Options{
		{Dir: "relative", Log: log}, {Dir: t.TempDir()}, {Dir: t.TempDir(), Log: log, ReserveBytes: -1}, {Dir: t.TempDir(), Log: log, ReaderGID: -2},
	} {
		if _, err := imagestore.Open(opt); !errors.Is(err, imagestore.ErrInvalid) {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	s, dir := newStore(t)
	if _, err := imagestore.Open(imagestore.Options{Dir: dir, Log: log, Registerer: registry}); !errors.Is(err, imagestore.ErrInUse) {
		t.Error(err)
	}
	for name, want := range map[string]string{".": "711", "images": "700", "images/incoming": "700", "templates": "700", "capsules": "711"} {
		if got := mode(t, filepath.Join(dir, name)); got != want+" 0:0" {
			t.Errorf("%s has mode %s, want %s", name, got, want)
		}
	}
	img := add(t, s, rawDisk(t, 1, mib))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, imagestore.Options{Dir: dir, Registerer: registry, ReaderGID: -1})
	if got, err := s.Stat(t.Context(), img.Digest); err != nil || got != img {
		t.Error(got, err)
	}
	clone(t, s, keyA, img.Digest)
	if n, err := testutil.GatherAndCount(registry, "capsuled_clone_duration_seconds", "capsuled_image_cache_bytes"); err != nil || n != 3 {
		t.Error(n, err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// A killed process leaves what its last instant was; the next one sweeps it and goes on.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("IMAGESTORE_KILLED_DIR"); dir != "" {
		killedHelper(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "state")
	source := rawDisk(t, 1, 64*mib)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "IMAGESTORE_KILLED_DIR="+dir, "IMAGESTORE_KILLED_SOURCE="+source)
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("in the middle")) {
		t.Fatalf("%v\n%s", err, out)
	}
	s := open(t, imagestore.Options{Dir: dir}) // the lock went with the process
	removed, err := s.Sweep(t.Context(), nil, nil)
	if err != nil || len(removed) != 1 || !strings.HasPrefix(removed[0], "images/incoming/") {
		t.Error(removed, err)
	}
	if diff := cmp.Diff(emptyTree, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	add(t, s, source)
}

// killedHelper dies within an import.
func killedHelper(t *testing.T, dir string) {
	s := open(t, imagestore.Options{Dir: dir})
	_, err := s.Import(t.Context(), os.Getenv("IMAGESTORE_KILLED_SOURCE"), func(string, int64, int64) {
		os.Stdout.WriteString("in the middle\n")
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // until the signal arrives
	})
	t.Error("survived", err)
}
