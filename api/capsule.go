package api

import (
	"fmt"
	"net/http"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

// What the calls of the capsule dialect allow. Bounds are the daemon's own (it checks them again, for callers that are no
// codec); they are here so that one reply names every fault.
var (
	createParams = params{
		{name: "imageid", required: true, check: matching(`[A-Za-z0-9._-]{1,128}`, "1 to 128 letters, digits, dots, dashes or underscores")},
		{name: "loginusername", required: true, check: matching(fmt.Sprintf(`[A-Za-z0-9._-]{1,%d}`, daemon.MaxLoginUser), fmt.Sprintf("1 to %d letters, digits, dots, dashes or underscores", daemon.MaxLoginUser))},
		{name: "loginpassword", required: true, check: matching(fmt.Sprintf(`[!-~]{1,%d}`, daemon.MaxPassword), fmt.Sprintf("1 to %d printable ASCII characters without spaces", daemon.MaxPassword))},
		{name: "memory", check: number(daemon.MinMemoryMB, daemon.MaxMemoryMB)},
		{name: "vcpu", check: number(1, daemon.MaxVCPUs)},
		{name: "type", check: oneOf(string(daemon.Demo), string(daemon.Research), string(daemon.ResearchFull))},
		{name: "consent", check: flag},
		{name: "full_access", check: flag},
		{name: "title", check: line(0, daemon.MaxTitle)},
		{name: "desc_nature", check: text(daemon.MaxText)},
		{name: "desc_requirement", check: text(daemon.MaxText)},
		{name: "desc_links", check: text(daemon.MaxText)},
		{name: "desc_outside_data", check: text(daemon.MaxText)},
		{name: "rr_data_files", check: text(daemon.MaxText)},
		{name: "rr_result_usage", check: text(daemon.MaxText)},
	}
	vmidParams = params{{name: "vmid", required: true, check: canonicalUUID}}
	showParams = params{{name: "vmid", check: canonicalUUID}}
	// mode in any case, as the original took it; review is ours, for administrators.
	switchParams = params{
		{name: "vmid", required: true, check: canonicalUUID},
		{name: "mode", required: true, check: word("maintenance", "secure")},
		{name: "review", check: flag},
	}
	noParams = params{}
)

func (s *Server) createCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, createParams)
	if err != nil {
		return reply{}, err
	}
	capsule, op, err := s.daemon.CreateCapsule(r.Context(), c, newCapsule(f))
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.Created{VMID: capsule.ID}, operation: op.ID}, nil
}

func newCapsule(f fields) daemon.NewCapsule {
	return daemon.NewCapsule{
		ImageID:       f["imageid"],
		LoginUser:     f["loginusername"],
		LoginPassword: f["loginpassword"],
		MemoryMB:      f.number("memory"),
		VCPUs:         f.number("vcpu"),
		Type:          daemon.Type(f["type"]),
		Consent:       f.flag("consent"),
		FullAccess:    f.flag("full_access"),
		About: daemon.About{
			Title:           f.text("title"),
			DescNature:      f.text("desc_nature"),
			DescRequirement: f.text("desc_requirement"),
			DescLinks:       f.text("desc_links"),
			DescOutsideData: f.text("desc_outside_data"),
			RRDataFiles:     f.text("rr_data_files"),
			RRResultUsage:   f.text("rr_result_usage"),
		},
	}
}

func (s *Server) launchCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := readVMID(w, r)
	if err != nil {
		return reply{}, err
	}
	op, err := s.daemon.LaunchCapsule(r.Context(), c, id)
	return reply{operation: op.ID}, err
}

func (s *Server) stopCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := readVMID(w, r)
	if err != nil {
		return reply{}, err
	}
	op, err := s.daemon.StopCapsule(r.Context(), c, id)
	return reply{operation: op.ID}, err
}

func (s *Server) deleteCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	id, err := readVMID(w, r)
	if err != nil {
		return reply{}, err
	}
	op, err := s.daemon.DeleteCapsule(r.Context(), c, id)
	return reply{operation: op.ID}, err
}

func (s *Server) switchCapsule(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, switchParams)
	if err != nil {
		return reply{}, err
	}
	mode, review := modes[f["mode"]], f["review"] == "true"
	if review && mode != daemon.Secure {
		return reply{}, invalid("review goes with mode secure: there is nothing to review without the data")
	}
	op, err := s.daemon.SwitchCapsule(r.Context(), c, f["vmid"], mode, review)
	return reply{operation: op.ID}, err
}

var modes = map[string]daemon.Mode{"maintenance": daemon.Maintenance, "secure": daemon.Secure}

func readVMID(w http.ResponseWriter, r *http.Request) (string, error) {
	f, err := readForm(w, r, vmidParams)
	return f["vmid"], err
}

func (s *Server) showCapsules(w http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	f, err := readForm(w, r, showParams)
	if err != nil {
		return reply{}, err
	}
	found, err := s.daemon.ShowCapsules(r.Context(), c, f["vmid"])
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.StatusList{Status: each(found, status)}}, nil
}

func (s *Server) listCapsules(_ http.ResponseWriter, r *http.Request, c daemon.Caller) (reply, error) {
	if _, err := readQuery(r, noParams); err != nil {
		return reply{}, err
	}
	found, err := s.daemon.ListCapsules(r.Context(), c)
	if err != nil {
		return reply{}, err
	}
	return reply{body: wire.VMList{VMsInfo: each(found, vmInfo)}}, nil
}
