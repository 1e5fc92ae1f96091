package imagestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Holder is somebody who has a file of a clone's directory open or mapped.
type Holder struct {
	PID   int    // the process, as this one sees it in /proc; 0 for a holder that is not seen there
	Disk  string // "disk", a volume's name, "overlay", or "clean" for the saved RAM
	Write bool   // whether it can write
}

// OpenBy says who has a disk, the overlay or the saved RAM of key open or mapped, sorted by disk and process. Nobody
// means that the kernel knows of no open file: each one is asked for a write lease, which is granted only then
// (F_SETLEASE of fcntl, since Linux 5.4). That takes microseconds. Only for a file that is held are all processes
// looked through, by device and inode, not by name. A holder that is none of them has PID 0: a loop device, a
// descriptor on its way through a socket, a process outside of this one's namespace. Pinned bases are left out, others
// share them. A handle opened with O_PATH is none: it reads nothing. The answer is of one moment.
//
// With disks named, only those are asked for: what a running domain has open anyway costs no look then.
//
// CAP_SYS_PTRACE and CAP_SYS_ADMIN let it look into the processes of others; those it may not see are PID 0 too.
// CAP_LEASE lets it ask for files of other owners. What neither way can tell is an error, never nobody. ErrNotFound if
// there is no directory, ErrInvalid if key is no UUID.
func (s *Store) OpenBy(ctx context.Context, key string, disks ...string) ([]Holder, error) {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return nil, failed("look for holders of", fmt.Sprintf("%.80q", key), err)
	}
	defer s.keys.lock(key)()
	holders, err := s.openBy(ctx, key, disks)
	if err != nil {
		return nil, failed("look for holders of", key, err)
	}
	return holders, nil
}

func (s *Store) openBy(ctx context.Context, key string, only []string) ([]Holder, error) {
	dir, err := s.capsules.at(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: clone directory", ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer dir.close()
	entries, err := dir.names()
	if err != nil {
		return nil, err
	}
	names := map[string]string{overlayName: overlayFile, ramName: ramFile} // by disk
	for _, file := range entries {
		if disk, _, ok := diskOf(file); ok {
			names[disk] = file
		}
	}
	held := map[fileID]string{} // the disks that may be held
	var disks []string
	for disk, name := range names {
		if len(only) > 0 && !slices.Contains(only, disk) {
			continue
		}
		st, err := dir.stat(name)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = dir.wrap("look at", name, errors.New("not a regular file"))
		}
		var l lease
		var id fileID
		if err == nil {
			l, id, err = dir.askLease(name)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case l.state != leaseFree:
			disks, held[id] = append(disks, disk), disk
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	found, denied, err := scanProcesses(ctx, held)
	if err != nil {
		return nil, err
	}
	for _, disk := range disks {
		of := func(h Holder) bool { return h.Disk == disk }
		if slices.ContainsFunc(found, func(h Holder) bool { return of(h) && h.Write }) {
			continue
		}
		seen := slices.ContainsFunc(found, of)
		unseen, err := dir.unseen(names[disk], disk, denied)
		if err != nil && !seen {
			return nil, err
		}
		// Who is seen to read may stand before somebody who writes and is not seen.
		if !seen || len(unseen) > 0 && unseen[0].Write {
			found = append(found, unseen...)
		}
	}
	slices.SortFunc(found, func(a, b Holder) int { return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.PID, b.PID)) })
	return found, nil
}

// unseen judges a file that was not free before the look through the processes, and that none of them holds as far as
// they could be seen: it may have been given back meanwhile.
func (d *directory) unseen(name, disk string, denied error) ([]Holder, error) {
	l, _, err := d.askLease(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && l.state == leaseFree:
		return nil, nil
	case err != nil:
		return nil, err
	case l.state == leaseHeld:
		return []Holder{{Disk: disk, Write: l.write}}, nil
	case errors.Is(l.refusal, unix.EACCES) || errors.Is(l.refusal, unix.EPERM):
		return nil, d.wrap("ask for a lease on", name, fmt.Errorf("%w: want CAP_LEASE", l.refusal))
	}
	return nil, denied // no leases on this file system: the processes have the last word
}

type leaseState int

const (
	leaseFree    leaseState = iota // nobody has the file open
	leaseHeld                      // somebody has
	leaseUnknown                   // the kernel would not say
)

type lease struct {
	state   leaseState
	write   bool  // with leaseHeld: whether somebody has it open for writing
	refusal error // with leaseUnknown
}

// askLease asks for a lease on a regular file and gives it back at once. The kernel grants a write lease when the
// caller's is the only open file of the inode, and a read lease when nobody has it open for writing.
func (d *directory) askLease(name string) (lease, fileID, error) {
	f, err := d.open(name)
	if errors.Is(err, unix.EWOULDBLOCK) { // somebody else has a lease
		id, err := identifyAt(d.fd(), name, unix.AT_SYMLINK_NOFOLLOW)
		return lease{state: leaseHeld, write: true}, id, err
	}
	if err != nil {
		return lease{}, fileID{}, err
	}
	defer f.Close()
	id, err := identifyAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return lease{}, id, err
	}
	try := func(kind int) error {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, kind); err != nil {
			return err
		}
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return err
	}
	switch err := try(unix.F_WRLCK); {
	case err == nil:
		return lease{state: leaseFree}, id, nil
	case errors.Is(err, unix.EAGAIN):
		return lease{state: leaseHeld, write: try(unix.F_RDLCK) != nil}, id, nil
	default:
		return lease{state: leaseUnknown, refusal: err}, id, nil
	}
}
