package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/capsuled/capsuled/api/wire"
)

// routeSecure adds the calls of the modes to the mux. Proofs, records, policies and findings are what Answer says.
func (s *fakeDaemon) routeSecure() {
	s.mux.HandleFunc("POST /switchvm", s.form(s.switchMode, "vmid", "mode", "review"))
	s.mux.HandleFunc("GET /v1/capsules", func(w http.ResponseWriter, _ *http.Request) {
		list := wire.StatusList{Status: []wire.Status{}}
		for _, c := range s.capsules {
			list.Status = append(list.Status, c.Status)
		}
		reply(w, http.StatusOK, list)
	})
	s.mux.HandleFunc("POST /v1/capsules/{id}/resume", s.resume)
	s.mux.HandleFunc("PUT /v1/capsules/{id}/type", s.setType)
}

// Answer gives a call, such as "GET /v1/doctor", this reply from now on.
func (s *fakeDaemon) Answer(call, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[call] = body
}

func (s *fakeDaemon) switchMode(w http.ResponseWriter, r *http.Request, form url.Values) {
	mode := strings.ToUpper(form.Get("mode"))
	if mode != "SECURE" && mode != "MAINTENANCE" {
		refuse(w, r, "invalid", "mode must be maintenance or secure")
		return
	}
	c := s.admit(w, r, form, "RUNNING")
	if c == nil {
		return
	}
	if c.Mode == mode {
		refuse(w, r, "conflict", "capsule "+c.VMID+" is in mode "+mode+" already")
		return
	}
	kind, steps := "enter", []string{"fence", "clean-point", "attach", "mount", "policy", "verify"}
	if mode == "MAINTENANCE" {
		kind, steps = "leave", []string{"fence", "flush", "destroy", "discard", "define", "restore"}
	}
	if form.Get("review") == "true" {
		kind = "enter for review"
	}
	c.State = "SWITCH_TO_" + mode + "_PENDING"
	op := s.begin(kind, c.VMID, steps, func(ok bool) {
		if c.State = "RUNNING"; ok {
			c.Mode = mode
		}
	})
	op.Steps[0].Note = "3 connections cut"
	if i := slices.Index(steps, "mount"); i >= 0 {
		op.Steps[i].Note = "the guest: \x1b[2Jmounted\nattach done" // it may say what it likes
	}
	locate(w, op)
}

func (s *fakeDaemon) resume(w http.ResponseWriter, r *http.Request) {
	if c := s.admit(w, r, url.Values{"vmid": {r.PathValue("id")}}, "ERROR"); c != nil {
		op := s.begin("readmit", c.VMID, []string{"fence", "verify", "policy", "unpause"}, func(ok bool) {
			if ok {
				c.State, c.Cause = "RUNNING", nil
			}
		})
		locate(w, op)
		reply(w, http.StatusAccepted, wire.Accepted{ID: c.VMID, Operation: op.Operation})
	}
}

func (s *fakeDaemon) setType(w http.ResponseWriter, r *http.Request) {
	var want wire.CapsuleType
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if r.Header.Get("Content-Type") != "application/json" || decoder.Decode(&want) != nil ||
		!slices.Contains([]string{"DEMO", "RESEARCH", "RESEARCH-FULL"}, want.Type) {
		refuse(w, r, "invalid", "want a JSON type")
		return
	}
	c := s.find(r.PathValue("id"))
	if c == nil {
		refuse(w, r, "not_found", "no capsule "+r.PathValue("id"))
		return
	}
	c.Type = want.Type
	w.WriteHeader(http.StatusNoContent)
}
