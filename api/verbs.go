package api

import (
	"context"
	"io"
	"os"

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
	metadefs
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

// images is the records of images, their bytes and their end.
type images interface {
	// AddImage begins to take an image in; without a file or a URL its bytes are awaited, and the operation is zero.
	AddImage(context.Context, daemon.Caller, daemon.NewImage) (daemon.Image, daemon.Operation, error)
	Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	// AppendImage adds bytes to an image that awaits them, from offset on; -1 begins anew. A wrong offset is a Conflict,
	// and the ImageUpload with it says how much there is.
	AppendImage(ctx context.Context, c daemon.Caller, id string, offset int64, r io.Reader) (daemon.ImageUpload, error)
	FinishImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	ImageProgress(ctx context.Context, c daemon.Caller, id string) (daemon.ImageUpload, error)
	// OpenImage opens the bytes of an ACTIVE image; the caller closes the file.
	OpenImage(ctx context.Context, c daemon.Caller, id string) (*os.File, daemon.Image, error)
	FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error)
	SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error)
	// DeleteImage marks an image and removes what is marked.
	DeleteImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	// RequestImageDelete marks an image; PurgeImage removes what is marked.
	RequestImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	// RequestActiveImageDelete marks none whose bytes are awaited.
	RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	PurgeImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	ActivateImage(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error)
	// ImageNameFree is nil, or a Conflict.
	ImageNameFree(ctx context.Context, c daemon.Caller, name string) error
	ShareCapsule(context.Context, daemon.Caller, daemon.NewShare) (daemon.Image, daemon.Operation, error)
	VerifyImage(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
	CollectImages(ctx context.Context, c daemon.Caller, dryRun bool) ([]daemon.ImageWaste, error)
	CancelOperation(ctx context.Context, c daemon.Caller, id string) (daemon.Operation, error)
}

// metadefs is the catalogue of metadata definitions.
type metadefs interface {
	Metadefs(ctx context.Context, c daemon.Caller, resourceType string) ([]daemon.Metadef, error)
	AddMetadef(context.Context, daemon.Caller, daemon.Metadef) error
	PutMetadef(context.Context, daemon.Caller, daemon.Metadef) error
	DeleteMetadef(ctx context.Context, c daemon.Caller, namespace string) error
}
