package api

import (
	"context"

	"github.com/capsuled/capsuled/daemon"
)

// verbs is what the API asks of the daemon. Every error is a *daemon.Error; any other is taken as internal.
type verbs interface {
	capsules
	modeVerbs
	proofs
	policies
	operations
	images
	// Ready says at once whether the daemon serves, and if not, why.
	Ready() daemon.Readiness
}

var _ verbs = (*daemon.Daemon)(nil)

type capsules interface {
	CreateCapsule(context.Context, daemon.Caller, daemon.NewCapsule) (daemon.Capsule, daemon.Operation, error)
	LaunchCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	StopCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	DeleteCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	// ShowCapsules shows one capsule, or with id "" all that the caller has a role in.
	ShowCapsules(ctx context.Context, c daemon.Caller, id string) ([]daemon.Capsule, error)
	// ListCapsules lists what the caller may know of: for an administrator, everything.
	ListCapsules(ctx context.Context, c daemon.Caller) ([]daemon.Capsule, error)
}

// modeVerbs is what moves a capsule between its modes.
type modeVerbs interface {
	SwitchCapsule(ctx context.Context, c daemon.Caller, id string, mode daemon.Mode, review bool) (daemon.Operation, error)
	ResumeCapsule(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	SetCapsuleType(ctx context.Context, c daemon.Caller, id string, t daemon.Type) error
}

// proofs looks, and changes nothing.
type proofs interface {
	Prove(ctx context.Context, c daemon.Caller, id string) (daemon.Proof, error)
	SwitchRecords(ctx context.Context, c daemon.Caller, id string) ([]daemon.SwitchRecord, error)
	Doctor(ctx context.Context, c daemon.Caller) ([]daemon.Finding, error)
}

type policies interface {
	Policies(ctx context.Context, c daemon.Caller) ([]daemon.PolicyInfo, error)
	ReloadPolicies(ctx context.Context, c daemon.Caller) ([]daemon.PolicyInfo, error)
	ShowPolicy(ctx context.Context, c daemon.Caller, id string) (daemon.PolicyView, error)
	ExplainPacket(ctx context.Context, c daemon.Caller, id, packet string) (daemon.Explanation, error)
}

type operations interface {
	Operation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	// WaitOperation returns when the operation has ended, or when ctx has: then the present state, and no error.
	WaitOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	Operations(context.Context, daemon.Caller, daemon.OperationFilter) ([]daemon.Operation, error)
}

type images interface {
	AddImage(context.Context, daemon.Caller, daemon.NewImage) (daemon.Image, daemon.Operation, error)
	Images(ctx context.Context, c daemon.Caller) ([]daemon.Image, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	DeleteImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
}

// imageVerbs is what the image dialects ask of the daemon.
type imageVerbs interface {
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	SetImage(ctx context.Context, c daemon.Caller, id string, change daemon.ImageChange) (daemon.Image, error)
	RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
}
