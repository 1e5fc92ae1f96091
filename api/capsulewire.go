package api

import (
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// capsuleTime is the contract's form of a time, in UTC.
const capsuleTime = "2006-01-02 15:04:05"

// withheld stands for a number that the caller may not know.
const withheld = -1

// status is one entry of show.
func status(c daemon.Capsule) wire.Status {
	if c.Redacted {
		return redactedStatus(c)
	}
	s := knownToAll(c)
	s.PublicIP = c.PublicIP
	s.State = string(c.State)
	s.Mode = string(c.Mode)
	s.Type = string(c.Type)
	s.SSHPort = c.SSHPort
	s.VNCPort = c.VNCPort
	s.VCPUs = c.VCPUs
	s.MemSize = c.MemoryMB
	s.VolumeSize = c.VolumeGB
	s.ImageName = c.ImageName
	s.VNCLoginID = c.LoginUser
	s.VNCLoginPassword = c.LoginPassword
	s.VMInitialLoginID = c.ImageUser
	s.VMInitialLoginPassword = c.ImagePassword
	s.Consent = c.Consent
	s.Title = c.About.Title
	s.DescNature = c.About.DescNature
	s.DescRequirement = c.About.DescRequirement
	s.DescLinks = c.About.DescLinks
	s.DescOutsideData = c.About.DescOutsideData
	s.RRDataFiles = c.About.RRDataFiles
	s.RRResultUsage = c.About.RRResultUsage
	s.DescShared = c.About.DescShared
	s.Observed = c.Observed
	if c.Cause != "" {
		s.Cause = &c.Cause
	}
	return s
}

// knownToAll fills what even a redacted entry shows: that the capsule exists, who has a part in it, and what the
// caller's own part is.
func knownToAll(c daemon.Capsule) wire.Status {
	return wire.Status{
		VMID:           c.ID,
		CreatedAt:      c.CreatedAt.UTC().Format(capsuleTime),
		Role:           string(c.CallerRole),
		PubKeyExists:   c.CallerHasKey,
		TOU:            c.CallerGlobalTOU,
		VMTOU:          c.CallerTOU,
		FullAccess:     c.CapsuleFullAccess,
		UserFullAccess: c.CallerFullAccess,
		Roles:          roles(c.Members),
	}
}

// redactedStatus starts from the little that all may know, so that a field added to Status later stays hidden here.
func redactedStatus(c daemon.Capsule) wire.Status {
	s := knownToAll(c)
	s.State = string(daemon.NotDefined)
	s.Mode = string(daemon.NotDefined)
	for _, n := range []*int{&s.SSHPort, &s.VNCPort, &s.VCPUs, &s.MemSize, &s.VolumeSize} {
		*n = withheld
	}
	for _, t := range []**string{&s.Title, &s.DescNature, &s.DescRequirement, &s.DescLinks, &s.DescOutsideData,
		&s.RRDataFiles, &s.RRResultUsage, &s.DescShared} {
		*t = new(string)
	}
	return s
}

// vmInfo is one entry of listvms.
func vmInfo(c daemon.Capsule) wire.VMInfo {
	info := wire.VMInfo{
		VMID:            c.ID,
		NumCPUs:         withheld,
		MemorySize:      withheld,
		VMMode:          string(daemon.NotDefined),
		VMState:         string(daemon.NotDefined),
		CreatedAt:       c.CreatedAt.UTC().Format(capsuleTime),
		NumHostCPUCores: withheld,
		NumHostMemoryGB: withheld,
		Roles:           roles(c.Members),
	}
	if c.Redacted {
		return info
	}
	info.Type = string(c.Type)
	info.NumCPUs = c.VCPUs
	info.MemorySize = c.MemoryMB
	info.VMMode = string(c.Mode)
	info.VMState = string(c.State)
	info.Host = c.Host
	info.NumHostCPUCores = c.HostCPUs
	info.NumHostMemoryGB = c.HostMemoryGB
	return info
}

func roles(members []daemon.Member) []wire.Role {
	rs := make([]wire.Role, len(members))
	for i, m := range members {
		rs[i] = wire.Role{Email: m.Email, GUID: m.GUID, Role: string(m.Role), TOU: m.TOU, FullAccess: m.FullAccess}
	}
	return rs
}
