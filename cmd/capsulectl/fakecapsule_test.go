package main

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/capsuled/capsuled/api/wire"
)

// AddCapsule puts a capsule there as it is. Own capsules are those that /show without a vmid describes.
func (s *fakeDaemon) AddCapsule(status wire.Status, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capsules = append(s.capsules, &fakeCapsule{Status: status, own: own})
}

// Capsule returns the capsule's present description.
func (s *fakeDaemon) Capsule(vmid string) (wire.Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.find(vmid); c != nil {
		return c.Status, true
	}
	return wire.Status{}, false
}

func (s *fakeDaemon) find(vmid string) *fakeCapsule {
	i := slices.IndexFunc(s.capsules, func(c *fakeCapsule) bool { return c.VMID == vmid })
	if i < 0 {
		return nil
	}
	return s.capsules[i]
}

func (s *fakeDaemon) create(w http.ResponseWriter, r *http.Request, form url.Values) {
	i := slices.IndexFunc(s.images, func(i *wire.Image) bool { return i.ID == form.Get("imageid") && i.State == "ACTIVE" })
	if i < 0 {
		refuse(w, r, "invalid", "no active image "+form.Get("imageid"))
		return
	}
	for _, name := range []string{"loginusername", "loginpassword"} {
		if form.Get(name) == "" || len(form.Get("loginpassword")) > 8 {
			refuse(w, r, "invalid", "bad parameter "+name)
			return
		}
	}
	port := 16000 + 2*len(s.capsules)
	c := &fakeCapsule{own: true, Status: wire.Status{
		VMID: s.nextID("a"), PublicIP: "203.0.113.7", CreatedAt: "2020-01-02 03:04:05", State: "CREATE_PENDING",
		Mode: "NOT_DEFINED", Type: "RESEARCH", Role: "OWNER_CONTROLLER", SSHPort: port, VNCPort: port + 1, VCPUs: 1,
		MemSize: 1024, VolumeSize: 10, ImageName: s.images[i].Name, VNCLoginID: form.Get("loginusername"),
		VNCLoginPassword: form.Get("loginpassword"), VMInitialLoginID: s.images[i].LoginUser,
		VMInitialLoginPassword: s.images[i].LoginPassword, TOU: true, VMTOU: true, Observed: "absent",
		Roles: []wire.Role{{Email: "", GUID: "root", Role: "OWNER_CONTROLLER", TOU: true}},
	}}
	for name, field := range map[string]*int{"memory": &c.MemSize, "vcpu": &c.VCPUs} {
		if text := form.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				refuse(w, r, "invalid", name+" must be a whole number")
				return
			}
			*field = n
		}
	}
	if form.Get("type") != "" {
		c.Type = form.Get("type")
	}
	for name, field := range map[string]**string{"title": &c.Title, "desc_nature": &c.DescNature} {
		if text := form.Get(name); text != "" {
			*field = &text
		}
	}
	s.capsules = append(s.capsules, c)
	op := s.begin("create", c.VMID, []string{"clone", "volumes", "lease", "define"}, func(ok bool) {
		c.settle(ok, "SHUTDOWN", "NOT_DEFINED", "off")
	})
	locate(w, op)
	reply(w, http.StatusOK, wire.Created{VMID: c.VMID})
}

// settle writes what came of an operation.
func (c *fakeCapsule) settle(ok bool, state, mode, observed string) {
	if !ok {
		c.State, c.Mode = "ERROR", "NOT_DEFINED"
		return
	}
	c.State, c.Mode, c.Observed = state, mode, observed
}

func (s *fakeDaemon) launch(w http.ResponseWriter, r *http.Request, form url.Values) {
	if c := s.admit(w, r, form, "SHUTDOWN"); c != nil {
		c.State = "LAUNCH_PENDING"
		locate(w, s.begin("launch", c.VMID, []string{"admit", "define", "lease", "fence", "start", "verify"}, func(ok bool) {
			c.settle(ok, "RUNNING", "MAINTENANCE", "running")
		}))
	}
}

func (s *fakeDaemon) stop(w http.ResponseWriter, r *http.Request, form url.Values) {
	if c := s.admit(w, r, form, "RUNNING", "ERROR"); c != nil {
		c.State = "SHUTDOWN_PENDING"
		locate(w, s.begin("stop", c.VMID, []string{"shut down", "destroy", "unfence"}, func(ok bool) {
			c.settle(ok, "SHUTDOWN", "NOT_DEFINED", "off")
		}))
	}
}

func (s *fakeDaemon) remove(w http.ResponseWriter, r *http.Request, form url.Values) {
	if c := s.admit(w, r, form, "SHUTDOWN", "RUNNING", "ERROR"); c != nil {
		s.capsules = slices.DeleteFunc(s.capsules, func(o *fakeCapsule) bool { return o == c })
		locate(w, s.begin("delete", c.VMID, []string{"destroy", "undefine", "unfence", "unlease", "erase"}, func(bool) {}))
	}
}

// admit finds the capsule of a call and refuses it in another state than these.
func (s *fakeDaemon) admit(w http.ResponseWriter, r *http.Request, form url.Values, states ...string) *fakeCapsule {
	c := s.find(form.Get("vmid"))
	if c == nil {
		refuse(w, r, "not_found", "no capsule "+form.Get("vmid"))
		return nil
	}
	if s.busy(c.VMID) {
		refuse(w, r, "busy", "another operation holds capsule "+c.VMID)
		return nil
	}
	if !slices.Contains(states, c.State) {
		refuse(w, r, "conflict", "capsule "+c.VMID+" is "+c.State)
		return nil
	}
	return c
}

func (s *fakeDaemon) show(w http.ResponseWriter, r *http.Request, form url.Values) {
	list := wire.StatusList{Status: []wire.Status{}}
	for _, c := range s.capsules {
		if c.VMID == form.Get("vmid") || form.Get("vmid") == "" && c.own {
			list.Status = append(list.Status, c.Status)
		}
	}
	if form.Get("vmid") != "" && len(list.Status) == 0 {
		refuse(w, r, "not_found", "no capsule "+form.Get("vmid"))
		return
	}
	reply(w, http.StatusOK, list)
}

func (s *fakeDaemon) list(w http.ResponseWriter, _ *http.Request) {
	list := wire.VMList{VMsInfo: []wire.VMInfo{}}
	for _, c := range s.capsules {
		list.VMsInfo = append(list.VMsInfo, wire.VMInfo{VMID: c.VMID, Type: c.Type, NumCPUs: c.VCPUs, MemorySize: c.MemSize,
			VMMode: c.Mode, VMState: c.State, Host: "test", CreatedAt: c.CreatedAt, Roles: c.Roles})
	}
	reply(w, http.StatusOK, list)
}
