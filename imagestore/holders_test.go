package imagestore_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/imagestore"
	"github.com/capsuled/capsuled/internal/testhost"
)

// wantHolders compares who holds the files of keyA.
func wantHolders(t *testing.T, s *imagestore.Store, name string, want ...imagestore.Holder) {
	t.Helper()
	got, err := s.OpenBy(t.Context(), keyA)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s: %v %s", name, err, diff)
	}
}

// openFile opens a file that the test closes.
func openFile(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// holding starts a program that has the file open, and returns its process.
func holding(t *testing.T, f *os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "infinity")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}

// On each kind of file system, every way of holding a file is seen, and is over when it is over.
func TestOpenBy(t *testing.T) {
	self := os.Getpid()
	for _, fs := range fileSystems {
		t.Run(fs.kind, func(t *testing.T) {
			s := open(t, imagestore.Options{Dir: filepath.Join(testhost.LoopFS(t, fs.kind, fs.bytes), "state")})
			disk := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
			if err := s.Prepare(t.Context(), []imagestore.Volume{secureVolume}); err != nil {
				t.Fatal(err)
			}
			volume, err := s.CloneVolume(t.Context(), keyA, secureVolume)
			if err != nil {
				t.Fatal(err)
			}
			c := prepare(t, s, keyA)
			plant(t, c.RAM)
			wantHolders(t, s, "nobody")

			r, w := openFile(t, volume.Path, os.O_RDONLY), openFile(t, c.RAM, os.O_WRONLY)
			wantHolders(t, s, "this process",
				imagestore.Holder{PID: self, Disk: "clean", Write: true}, imagestore.Holder{PID: self, Disk: "secure_volume"})
			if h, err := s.OpenBy(t.Context(), keyA, "secure_volume"); err != nil || len(h) != 1 || h[0].Disk != "secure_volume" {
				t.Errorf("asked for one disk: %+v, %v", h, err)
			}
			if h, err := s.OpenBy(t.Context(), keyA, "disk"); err != nil || len(h) != 0 {
				t.Errorf("asked for a disk that nobody has: %+v, %v", h, err)
			}
			reader, writer := holding(t, r), holding(t, w)
			r.Close()
			w.Close()
			wantHolders(t, s, "others", imagestore.Holder{PID: writer.Process.Pid, Disk: "clean", Write: true},
				imagestore.Holder{PID: reader.Process.Pid, Disk: "secure_volume"})
			end(t, reader)
			end(t, writer)
			wantHolders(t, s, "ended")

			name := filepath.Join(filepath.Dir(filepath.Dir(disk.Path)), "another-name")
			if err := os.Link(disk.Path, name); err != nil {
				t.Fatal(err)
			}
			f := openFile(t, name, os.O_RDWR)
			wantHolders(t, s, "by another name", imagestore.Holder{PID: self, Disk: "disk", Write: true})
			holdsWithoutDescriptor(t, s, f)
			named := holding(t, openFile(t, volume.Path, unix.O_PATH))
			defer end(t, named)
			if volume.Base != "" {
				openFile(t, volume.Base, os.O_RDONLY)
			}
			wantHolders(t, s, "nothing that counts")
			openFile(t, volume.Path, os.O_RDONLY)
			wantHolders(t, s, "beside nothing that counts", imagestore.Holder{PID: self, Disk: "secure_volume"})
		})
	}
}

// holdsWithoutDescriptor holds the file, which is the disk and open for writing, by a mapping alone, and then on its way
// through a socket, where no process has it.
func holdsWithoutDescriptor(t *testing.T, s *imagestore.Store, f *os.File) {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	wantHolders(t, s, "mapped", imagestore.Holder{PID: os.Getpid(), Disk: "disk", Write: true})
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	wantHolders(t, s, "in a socket", imagestore.Holder{Disk: "disk", Write: true})
	reader, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	wantHolders(t, s, "in a socket, and read", imagestore.Holder{Disk: "disk", Write: true}, imagestore.Holder{PID: os.Getpid(), Disk: "disk"})
	if err := errors.Join(reader.Close(), unix.Close(pair[0]), unix.Close(pair[1])); err != nil {
		t.Fatal(err)
	}
}

// What lies beside the disks that are asked for is nobody's business: an operator's link, say.
func TestOpenByBesideOthers(t *testing.T) {
	s, _ := newStore(t)
	disk := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
	if err := os.Symlink(disk.Path, filepath.Join(filepath.Dir(disk.Path), "x.raw")); err != nil {
		t.Fatal(err)
	}
	openFile(t, disk.Path, os.O_RDWR)
	want := []imagestore.Holder{{PID: os.Getpid(), Disk: "disk", Write: true}}
	if h, err := s.OpenBy(t.Context(), keyA, "disk", "overlay", "secure_volume"); err != nil || !cmp.Equal(h, want) {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := s.OpenBy(t.Context(), keyA, "x"); err == nil {
		t.Error("a link was asked for, and nothing said")
	}
}

// A real QEMU holds the overlay to write and the disk to read, until it is gone.
func TestOpenByQEMU(t *testing.T) {
	s, _ := newStore(t)
	disk := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
	c := prepare(t, s, keyA)
	pidFile := filepath.Join(t.TempDir(), "pid")
	run(t, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-S", "-nodefaults", "-display", "none", "-daemonize", "-pidfile", pidFile,
		"-drive", "if=virtio,format=qcow2,file="+c.Overlay)
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	stop := func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		for { // until it has ended
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}
	defer stop()
	wantHolders(t, s, filepath.Base(disk.Path), imagestore.Holder{PID: pid, Disk: "disk"}, imagestore.Holder{PID: pid, Disk: "overlay", Write: true})
	stop()
	wantHolders(t, s, "killed")
}

// A store that may not look into other processes says at least that somebody has the file; one that may not ask the
// kernel either says that it cannot tell.
func TestOpenByBlind(t *testing.T) {
	if dir := os.Getenv("IMAGESTORE_BLIND_DIR"); dir != "" {
		got, err := open(t, imagestore.Options{Dir: dir}).OpenBy(t.Context(), keyA)
		switch want := os.Getenv("IMAGESTORE_BLIND_WANT"); {
		case want == "holder" && err == nil && cmp.Equal(got, []imagestore.Holder{{Disk: "disk"}}):
		case want == "process" && err == nil && len(got) == 1 && got[0].PID > 0:
		case want == "error" && errors.Is(err, unix.EACCES) && got == nil:
		default:
			t.Errorf("want %s: %+v, %v", want, got, err)
		}
		return
	}
	s, dir := newStore(t)
	disk := clone(t, s, keyA, add(t, s, rawDisk(t, 1, mib)).Digest)
	s.Close()
	f := openFile(t, disk.Path, os.O_RDONLY)
	holder := exec.CommandContext(t.Context(), "sleep", "infinity")
	holder.ExtraFiles = []*os.File{f}
	holder.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	blind := func(without, want string) {
		t.Helper()
		cmd := command(t, "setpriv", "--bounding-set="+without, os.Args[0], "-test.run=^TestOpenByBlind$")
		cmd.Env = append(os.Environ(), "IMAGESTORE_BLIND_DIR="+dir, "IMAGESTORE_BLIND_WANT="+want)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("without %s: %v\n%s", without, err, out)
		}
	}
	blind("-sys_ptrace", "holder")
	if err := os.Chown(disk.Path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	blind("-sys_ptrace,-lease", "error")
	blind("-lease", "process")
	end(t, holder)
	blind("-lease", "error")
}
