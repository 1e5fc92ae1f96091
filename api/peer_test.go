package api_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/api"
)

// as runs f on a thread of its own that has become another user; the thread ends with it. Only the raw calls change one
// thread; those of package syscall change all.
func as(t *testing.T, uid, gid int, groups []uint32, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		defer close(done)
		var list unsafe.Pointer
		if len(groups) > 0 {
			list = unsafe.Pointer(&groups[0])
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(list), 0); errno != 0 {
			done <- fmt.Errorf("setgroups: %w", errno)
			return
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
			done <- fmt.Errorf("setresgid: %w", errno)
			return
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			done <- fmt.Errorf("setresuid: %w", errno)
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// raw asks over a connection that is opened by the calling thread: the kernel notes the thread's credentials.
func raw(socket, head string) (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return "", err
	}
	if _, err := unix.Write(fd, []byte("GET /listvms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+head+"\r\n")); err != nil {
		return "", err
	}
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 {
			return string(all), err
		}
		all = append(all, buf[:n]...)
	}
}

func TestPeers(t *testing.T) {
	const group = 54321
	many := make([]uint32, 200) // more than the first buffer for them holds
	for i := range many {
		many[i] = uint32(60000 + i)
	}
	h := start(t, func(o *api.Options) { o.Groups = []uint32{group} })
	// The mode of the socket keeps strangers out as well; here it must not, to see what is behind it.
	if err := os.Chmod(h.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	bearer := bearerOf(t, map[string]any{"sub": "alice"})
	for _, row := range []struct {
		name     string
		uid, gid int
		groups   []uint32
		head     string
		status   string
		guid     string
		local    bool
	}{
		{name: "root", status: "200", guid: "root", local: true},
		{name: "root without groups", gid: 7, status: "200", guid: "root", local: true},
		{name: "primary group", uid: 54000, gid: group, status: "200", guid: "local:uid-54000", local: true},
		{name: "supplementary group", uid: 54000, gid: 7, groups: []uint32{1, group}, status: "200", guid: "local:uid-54000", local: true},
		{name: "last of many groups", uid: 54000, gid: 7, groups: append(many[:len(many):len(many)], group), status: "200", guid: "local:uid-54000", local: true},
		{name: "a user with a name", uid: 1, gid: group, status: "200", guid: "local:daemon", local: true},
		{name: "stranger", uid: 54000, gid: 54000, status: "403"},
		{name: "stranger in many groups", uid: 54000, gid: 54000, groups: many, status: "403"},
		{name: "stranger of root's group", uid: 54000, gid: 0, status: "403"},
		{name: "stranger with a token", uid: 54000, gid: 54000, head: bearer, status: "403"},
		{name: "root with a token", head: bearer, status: "200", guid: "alice"},
		{name: "root with a bad token", head: "X-Auth-Token: x", status: "401"},
		{name: "relayed", head: "X-Forwarded-For: 10.0.0.1", status: "401"},
		{name: "relayed for a user", head: "htrc-remote-user: alice", status: "401"},
		{name: "relayed with a token", head: "Via: 1.1 router\r\n" + bearer, status: "200", guid: "alice"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.set(func(f *fakeDaemon) { f.callers = nil })
			if row.head != "" {
				row.head += "\r\n"
			}
			var reply string
			var err error
			as(t, row.uid, row.gid, row.groups, func() { reply, err = raw(h.socket, row.head) })
			if err != nil || !strings.HasPrefix(reply, "HTTP/1.1 "+row.status) {
				t.Fatalf("%v: %s", err, reply)
			}
			if row.guid == "" {
				if h.callers != nil {
					t.Errorf("the daemon was called by %+v", h.callers)
				}
				return
			}
			want := fmt.Sprintf("unix:uid=%d", row.uid)
			if c := h.lastCaller(); c.GUID != row.guid || c.Local != row.local || c.From != want || c.HasRole("admin") != row.local {
				t.Errorf("caller %+v", c)
			}
		})
	}
}

func TestSocketKeepsStrangersOut(t *testing.T) {
	h := start(t, nil)
	as(t, 54000, 54000, nil, func() {
		if reply, err := raw(h.socket, ""); err != unix.EACCES {
			t.Errorf("a stranger gets %v, %s", err, reply)
		}
	})
}
