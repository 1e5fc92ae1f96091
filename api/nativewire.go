package api

import (
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

func image(i daemon.Image) wire.Image {
	return wire.Image{
		ID:            i.ID,
		Name:          i.Name,
		Description:   i.Description,
		State:         string(i.State),
		Public:        i.Public,
		Owner:         i.Owner,
		Digest:        i.Digest,
		Format:        i.Format,
		FileBytes:     i.FileBytes,
		VirtualBytes:  i.VirtualBytes,
		LoginUser:     i.LoginUser,
		LoginPassword: i.LoginPassword,
		CreatedAt:     i.CreatedAt.UTC(),
		UpdatedAt:     i.UpdatedAt.UTC(),
	}
}

func operation(o daemon.Operation) wire.Operation {
	op := wire.Operation{
		ID:       o.ID,
		Kind:     o.Kind,
		Target:   o.Target,
		State:    string(o.State),
		Step:     o.Step,
		Steps:    make([]wire.Step, len(o.Steps)),
		Progress: o.Progress,
		Code:     string(o.Code),
		Cause:    o.Cause,
		Actor:    o.Actor,
		Started:  o.Started.UTC(),
	}
	for i, s := range o.Steps {
		op.Steps[i] = wire.Step{Name: s.Name, State: s.State, Seconds: s.Seconds}
	}
	if !o.Ended.IsZero() {
		ended := o.Ended.UTC()
		op.Ended = &ended
	}
	return op
}
