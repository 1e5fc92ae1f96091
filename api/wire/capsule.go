package wire

// Error is the body of every refused call of the capsule API. StatusCode equals the HTTP status.
type Error struct {
	StatusCode  int    `json:"statusCode"`
	Description string `json:"description"`
}

// Created answers POST /createvm.
type Created struct {
	VMID string `json:"vmid"`
}

// StatusList answers POST /show, and GET /v1/capsules.
type StatusList struct {
	Status []Status `json:"status"`
}

// Status is one capsule in a StatusList (contract section 4.5), and answers GET /v1/capsules/{id}. Nulls are emitted, not
// omitted.
type Status struct {
	VMID                   string  `json:"vmid"`
	PublicIP               string  `json:"publicip"`
	CreatedAt              string  `json:"created_at"` // "yyyy-MM-dd HH:mm:ss", UTC
	State                  string  `json:"state"`
	Mode                   string  `json:"mode"`
	Type                   string  `json:"type"`
	Role                   string  `json:"role"`
	SSHPort                int     `json:"sshport"`
	VNCPort                int     `json:"vncport"`
	VCPUs                  int     `json:"vcpus"`
	MemSize                int     `json:"memSize"`    // MB
	VolumeSize             int     `json:"volumeSize"` // GB
	ImageName              string  `json:"imageName"`
	VNCLoginID             string  `json:"vncloginId"`
	VNCLoginPassword       string  `json:"vncloginPassword"`
	VMInitialLoginID       string  `json:"vmInitialLoginId"`
	VMInitialLoginPassword string  `json:"vmInitialLoginPassword"`
	PubKeyExists           bool    `json:"pubKeyExists"`
	TOU                    bool    `json:"tou"` // the user's, for all capsules
	VMTOU                  bool    `json:"vm_tou"`
	Consent                *bool   `json:"consent"`
	FullAccess             *bool   `json:"full_access"` // the owner's
	UserFullAccess         *bool   `json:"user_full_access"`
	Title                  *string `json:"title"`
	DescNature             *string `json:"desc_nature"`
	DescRequirement        *string `json:"desc_requirement"`
	DescLinks              *string `json:"desc_links"`
	DescOutsideData        *string `json:"desc_outside_data"`
	RRDataFiles            *string `json:"rr_data_files"`
	RRResultUsage          *string `json:"rr_result_usage"`
	DescShared             *string `json:"desc_shared"`
	Roles                  []Role  `json:"roles"`

	// Ours, beyond the contract: why the capsule is in its state, and what libvirt says of it now
	// ("running", "paused", "off", "absent", "unknown").
	Cause    *string `json:"cause"`
	Observed string  `json:"observed"`
}

// Role is one user's part in a capsule. The role is spelled with an underscore, as the original emits it.
type Role struct {
	Email      string `json:"email"`
	GUID       string `json:"guid"`
	Role       string `json:"role"`
	TOU        bool   `json:"tou"`
	FullAccess *bool  `json:"full_access"`
}

// VMList answers GET /listvms.
type VMList struct {
	VMsInfo []VMInfo `json:"vmsInfo"`
}

// VMInfo is one capsule in a VMList.
type VMInfo struct {
	VMID            string  `json:"vmid"`
	Username        *string `json:"username"`  // always null, as in the original
	UserEmail       *string `json:"userEmail"` // always null, as in the original
	Type            string  `json:"type"`
	NumCPUs         int     `json:"numCPUs"`
	MemorySize      int     `json:"memorySize"` // MB
	VMMode          string  `json:"vmmode"`
	VMState         string  `json:"vmState"`
	Host            string  `json:"host"`
	CreatedAt       string  `json:"created_at"`
	NumHostCPUCores int     `json:"numHostCPUCores"`
	NumHostMemoryGB int     `json:"numHostMemoryGB"`
	Roles           []Role  `json:"roles"`
}

// ImageInfoList answers GET /listallimages, /listactiveimages and /listmyimages.
type ImageInfoList struct {
	ImageInfo []ImageInfo `json:"imageInfo"`
}

// ImageInfo is one image of the capsule dialect (contract section 7).
type ImageInfo struct {
	ImageID          string  `json:"imageId"`
	ImageName        string  `json:"imageName"`
	ImageStatus      string  `json:"imageStatus"`
	ImageDescription string  `json:"imageDescription"`
	ImagePath        string  `json:"imagePath"` // its digest; "" until its bytes are there. Never a path of the host
	LoginUserName    string  `json:"loginUserName"`
	LoginPassWord    string  `json:"loginPassWord"`
	SourceVM         *string `json:"sourceVM"` // null when it was shared from no capsule
	Public           bool    `json:"public"`
	Owner            string  `json:"owner"`
	CreatedAt        string  `json:"createdAt"` // "yyyy-MM-dd HH:mm:ss", UTC
	UpdatedAt        string  `json:"updatedAt"`
}
