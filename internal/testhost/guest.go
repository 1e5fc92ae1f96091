package testhost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/capsuled/capsuled/internal/testhost/guest"
)

// GuestImage is the test guest: a small Linux that boots from its own disk, takes its address by DHCP, and lets
// the key in as root and as dcuser. The files are shared: copy or clone them, never write to them.
type GuestImage = guest.Image

// Guest returns the test guest, built first if it is missing or older than its builder (some seconds; packages are
// fetched from the network once). Any number of processes may ask at once.
func Guest(t testing.TB) GuestImage {
	t.Helper()
	return guestWith(t, guest.Cloud)
}

// GuestWithGenerationID returns the test guest under a kernel that knows the generation id of its machine: when the id
// changes it says "crng reseeded due to virtual machine fork" and starts its random numbers anew. It boots some
// seconds slower, and is built only when it is asked for.
func GuestWithGenerationID(t testing.TB) GuestImage {
	t.Helper()
	return guestWith(t, guest.Full)
}

func guestWith(t testing.TB, k guest.Kernel) GuestImage {
	t.Helper()
	img, err := buildGuest(t.Context(), k)
	if err != nil {
		t.Fatal("testhost:", err)
	}
	return img
}

// BuildGuest is [Guest] for programs. It finds the module from the working directory, and leaves the guest in
// its build/guest.
func BuildGuest(ctx context.Context) (GuestImage, error) { return buildGuest(ctx, guest.Cloud) }

// BuildAllGuests builds the guests of both kernels ahead of need, so that tests find them without a network.
func BuildAllGuests(ctx context.Context) (plain, withGenerationID GuestImage, err error) {
	if plain, err = buildGuest(ctx, guest.Cloud); err == nil {
		withGenerationID, err = buildGuest(ctx, guest.Full)
	}
	return plain, withGenerationID, err
}

func buildGuest(ctx context.Context, k guest.Kernel) (GuestImage, error) {
	root, err := moduleRoot()
	if err != nil {
		return GuestImage{}, err
	}
	dir := filepath.Join(root, "build", "guest")
	state := os.Getenv(envState)
	if state == "" {
		return guest.Ensure(ctx, dir, k)
	}
	if img, ok := guest.Current(dir, k); ok {
		return img, nil
	}
	return askLauncher(ctx, state, guestRequest{dir, k})
}

// moduleRoot is the nearest directory upwards that holds a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod here or above")
		}
		dir = filepath.Dir(dir)
	}
}

// The guest door is a socket on which the launcher, which has the machine's network, builds the guest for those
// inside, who have none. Each connection takes one request and one reply, in JSON.

type guestRequest struct {
	Dir    string
	Kernel guest.Kernel
}

type guestReply struct {
	Image GuestImage
	Error string `json:",omitempty"`
}

func guestDoor(state string) string { return filepath.Join(state, "guest.sock") }

func openGuestDoor(state string) (func(), error) {
	l, err := net.Listen("unix", guestDoor(state))
	if err != nil {
		return nil, fmt.Errorf("guest door: %w", err)
	}
	if err := os.Chmod(guestDoor(state), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("guest door: %w", err), l.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(ctx, c)
		}
	}()
	return func() {
		cancel()
		_ = l.Close()
	}, nil
}

func answer(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	var ask guestRequest
	if err := json.NewDecoder(bufio.NewReader(c)).Decode(&ask); err != nil {
		return
	}
	var reply guestReply
	img, err := guest.Ensure(ctx, ask.Dir, ask.Kernel)
	if reply.Image = img; err != nil {
		reply.Error = err.Error()
	}
	_ = json.NewEncoder(c).Encode(reply)
}

func askLauncher(ctx context.Context, state string, ask guestRequest) (GuestImage, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", guestDoor(state))
	if err != nil {
		return GuestImage{}, fmt.Errorf("guest door: %w", err)
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := json.NewEncoder(c).Encode(ask); err != nil {
		return GuestImage{}, fmt.Errorf("guest door: %w", err)
	}
	var reply guestReply
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return GuestImage{}, fmt.Errorf("guest door: %w", err)
	}
	if reply.Error != "" {
		return GuestImage{}, errors.New(reply.Error)
	}
	return reply.Image, nil
}
