package daemon

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
)

// observeLimit bounds how long a question about what is may hold up an answer about what is wanted.
const observeLimit = 3 * time.Second

// ShowCapsules describes one capsule, or with an empty id all in which the caller has a role. A member who has not
// accepted the terms, or was not granted full access, gets a redacted entry.
func (d *Daemon) ShowCapsules(ctx context.Context, c Caller, id string) ([]Capsule, error) {
	if c.GUID == "" {
		return nil, errorf(Unauthorized, "who asks is not known")
	}
	if id == "" {
		return d.capsules(ctx, c, func(tx *store.Tx) ([]store.Capsule, error) { return tx.CapsulesOf(c.GUID) })
	}
	if _, err := uuid.Parse(id); err != nil {
		return nil, errorf(Invalid, "%q is not a capsule id: a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10 is", clip(id))
	}
	found, err := d.capsules(ctx, c, func(tx *store.Tx) ([]store.Capsule, error) {
		capsule, err := tx.Capsule(id)
		return []store.Capsule{capsule}, missing(err, "no capsule %s", id)
	})
	if err == nil && len(found) == 0 {
		err = errorf(NotFound, "no capsule %s", id)
	}
	return found, err
}

// ListCapsules describes every capsule of the host to an administrator, and to others those in which they have a role.
func (d *Daemon) ListCapsules(ctx context.Context, c Caller) ([]Capsule, error) {
	if !c.admin() {
		return d.ShowCapsules(ctx, c, "")
	}
	return d.capsules(ctx, c, (*store.Tx).Capsules)
}

// capsules reads records as a caller may see them, and what libvirt says of them.
func (d *Daemon) capsules(ctx context.Context, c Caller, read func(*store.Tx) ([]store.Capsule, error)) ([]Capsule, error) {
	var records []store.Capsule
	members := map[string][]Member{}
	var user store.User
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		if records, err = read(tx); err != nil {
			return err
		}
		if user, err = tx.User(c.GUID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if len(records) == 1 {
			members[records[0].ID], err = tx.MembersOf(records[0].ID)
			return err
		}
		members, err = tx.Members()
		return err
	})
	if err != nil {
		return nil, err
	}
	seen := d.observe(ctx, records)
	out := make([]Capsule, 0, len(records))
	for _, r := range records {
		s := stand(c, members[r.ID])
		if !s.known || hides(c, r.State) {
			continue
		}
		v := d.describe(r, s, members[r.ID])
		now := seen(r.ID)
		if v.Observed = now.word; v.Cause == "" && v.State == Running {
			v.Cause = now.cause
		}
		if v.Redacted {
			v.Observed = ""
		}
		v.CallerGlobalTOU, v.CallerHasKey = user.TOU, user.HasKey
		out = append(out, v)
	}
	return out, nil
}

// describe is a record as one caller sees it.
func (d *Daemon) describe(r store.Capsule, s standing, members []Member) Capsule {
	if !s.full { // what may not be known does not leave this room
		return Capsule{
			ID: r.ID, CreatedAt: r.CreatedAt, State: State(NotDefined), Mode: NotDefined, Members: members,
			CallerRole: s.member.Role, CallerTOU: s.member.TOU, CallerFullAccess: s.member.FullAccess,
			CapsuleFullAccess: s.owner.FullAccess, Redacted: true,
		}
	}
	memory, _ := totalMemory()
	return Capsule{
		ID: r.ID, Key: r.Key, CreatedAt: r.CreatedAt, State: r.State, Mode: r.Mode, Cause: r.Cause, Type: r.Type,
		ImageID: r.ImageID, ImageName: r.Image.Name,
		VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, VolumeGB: r.VolumeGB, SSHPort: r.SSHPort, VNCPort: r.VNCPort,
		LoginUser: r.LoginUser, LoginPassword: r.LoginPassword, ImageUser: r.ImageUser, ImagePassword: r.ImagePassword,
		Consent: r.Consent, About: r.About, Members: members,
		Host: d.opt.Host, PublicIP: d.opt.PublicIP, HostCPUs: runtime.NumCPU(), HostMemoryGB: int(memory >> 30),
		CallerRole: s.member.Role, CallerTOU: s.member.TOU, CallerFullAccess: s.member.FullAccess,
		CapsuleFullAccess: s.owner.FullAccess,
	}
}

// observe asks libvirt about the domains of some records, and returns what it says of each. When it does not
// answer, that is what is said: unknown is not off.
func (d *Daemon) observe(ctx context.Context, records []store.Capsule) func(id string) observed {
	ctx, cancel := context.WithTimeout(ctx, observeLimit)
	defer cancel()
	seen := map[domain.ID]domain.Observed{}
	err := d.hyper.Connected()
	if err == nil && len(records) == 1 {
		var o domain.Observed
		if o, err = d.domains.ObserveOne(ctx, domain.ID(records[0].ID)); err == nil {
			seen[o.ID] = o
		} else if errors.Is(err, domain.ErrNotFound) {
			err = nil
		}
	} else if err == nil && len(records) > 1 {
		seen, err = d.domains.Observe(ctx)
	}
	return func(id string) observed {
		if err != nil {
			return observed{word: "unknown"}
		}
		o, ok := seen[domain.ID(id)]
		if !ok {
			return observed{word: "absent"}
		}
		now := observed{word: words[o.State]}
		if o.State == domain.Paused && o.Reason == domain.ReasonIOError {
			now.cause = "paused by an error of its disk: the host's disk may be full"
		}
		return now
	}
}

// observed is what libvirt says of a domain now, in the words of the API, and why it stands still.
type observed struct{ word, cause string }

var words = map[domain.RunState]string{
	domain.Unknown: "unknown", domain.Off: "off", domain.Running: "running", domain.Paused: "paused",
}
