package daemon

import (
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// State is a capsule's state, as in the capsule contract (section 5).
type State = store.State

const (
	CreatePending   State = "CREATE_PENDING"
	LaunchPending   State = "LAUNCH_PENDING"
	Running         State = "RUNNING"
	ShutdownPending State = "SHUTDOWN_PENDING"
	Shutdown        State = "SHUTDOWN"
	DeletePending   State = "DELETE_PENDING"
	Failed          State = "ERROR"
	Deleted         State = "DELETED"
	DeleteError     State = "DELETE_ERROR"

	SwitchToSecurePending      State = "SWITCH_TO_SECURE_PENDING"
	SwitchToMaintenancePending State = "SWITCH_TO_MAINTENANCE_PENDING"
	ImageSharePending          State = "IMAGE_SHARE_PENDING" // an image is being made of its disk
)

// hidden says which states no caller sees: the capsule is on its way out.
var hidden = map[State]bool{DeletePending: true, DeleteError: true, Deleted: true}

// Mode is what a capsule may reach and see. It is NotDefined whenever the capsule does not run, but for one that is
// held: ERROR with a mode is a capsule that is closed and paused, or whose way out of secure mode failed.
type Mode = store.Mode

const (
	NotDefined  Mode = "NOT_DEFINED"
	Maintenance Mode = "MAINTENANCE"
	Secure      Mode = "SECURE"
)

// Type is what a capsule is for; it chooses the secure policy.
type Type = store.Type

const (
	Demo         Type = "DEMO"
	Research     Type = "RESEARCH"
	ResearchFull Type = "RESEARCH-FULL"
)

// Role is what a user is to a capsule.
type Role = store.Role

const (
	OwnerController Role = "OWNER_CONTROLLER"
	Owner           Role = "OWNER"
	Controller      Role = "CONTROLLER"
	Sharee          Role = "SHAREE"
)

// Member is a user's role in a capsule; About is the researcher's description of it.
type (
	Member = store.Member
	About  = store.About
)

// NewCapsule is what a caller asks for with CreateCapsule. Zero values mean the contract's defaults (1 vCPU,
// 1024 MB, RESEARCH).
type NewCapsule struct {
	ImageID       string
	LoginUser     string // console (VNC) login name: stored, never used
	LoginPassword string // console password, 1..8 printable ASCII bytes
	MemoryMB      int
	VCPUs         int
	Type          Type
	Consent       *bool
	FullAccess    *bool
	About         About
}

// Capsule is a capsule as its callers see it: the record, and beside it what libvirt says now.
type Capsule struct {
	ID        string
	Key       string // "cap-<8 hex>": domain, tap and chain name
	CreatedAt time.Time
	State     State
	Mode      Mode
	Cause     string // why it is in this state; "" when nothing is wrong
	Observed  string // what libvirt says: "running", "paused", "off", "absent", "unknown"
	Type      Type
	ImageID   string
	ImageName string

	VCPUs    int
	MemoryMB int
	VolumeGB int
	SSHPort  int // 0 when none is held
	VNCPort  int

	LoginUser         string
	LoginPassword     string
	ImageUser         string // first login of the image
	ImagePassword     string
	Consent           *bool
	About             About
	Members           []Member
	Host              string // this host's name
	PublicIP          string
	HostCPUs          int
	HostMemoryGB      int
	CallerRole        Role // "" when the caller has none (an administrator)
	CallerTOU         bool // the caller's acceptance for this capsule
	CallerGlobalTOU   bool
	CallerHasKey      bool
	CallerFullAccess  *bool
	CapsuleFullAccess *bool // the owner's
	Redacted          bool  // the caller may know that it exists, not what it is
}
