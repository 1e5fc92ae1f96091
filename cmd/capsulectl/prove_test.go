package main

import (
	"strings"
	"testing"

	"github.com/capsuled/capsuled/api/wire"
)

// The daemon's summary counts for no more than its checks say.
func TestJudge(t *testing.T) {
	good, bad, blind := wire.Check{Promise: "P1", OK: true}, wire.Check{Promise: "P1"}, wire.Check{Promise: "P2", Unknown: true}
	for _, tt := range []struct {
		name   string
		proof  wire.Proof
		text   string
		status int
	}{
		{"proved", wire.Proof{Proved: true, Checks: []wire.Check{good, good}}, "PROVED: 2 checks", exitOK},
		{"one failed", wire.Proof{Checks: []wire.Check{good, bad, blind}}, "NOT PROVED: 1 of 3 checks failed", exitNotProved},
		{"one failed, and yet proved", wire.Proof{Proved: true, Checks: []wire.Check{good, bad}}, "NOT PROVED: 1 of 2", exitNotProved},
		{"one could not be made", wire.Proof{Unknown: true, Checks: []wire.Check{good, blind}}, "UNKNOWN: 1 of 2 checks could not be made, none failed", exitUnknown},
		{"one could not be made, and yet proved", wire.Proof{Proved: true, Checks: []wire.Check{good, blind}}, "UNKNOWN: 1 of 2", exitUnknown},
		{"could not be made, though it says ok", wire.Proof{Proved: true, Checks: []wire.Check{{OK: true, Unknown: true}}}, "UNKNOWN: 1 of 1", exitUnknown},
		{"unknown without a check", wire.Proof{Unknown: true, Checks: []wire.Check{good}}, "UNKNOWN: the daemon does not say", exitUnknown},
		{"proved by nothing", wire.Proof{Proved: true}, "UNKNOWN: the daemon does not say", exitUnknown},
		{"not proved, and no check failed", wire.Proof{Checks: []wire.Check{good}}, "NOT PROVED: the daemon does not say why", exitNotProved},
		{"empty", wire.Proof{}, "NOT PROVED", exitNotProved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, err := judge(tt.proof)
			if !strings.HasPrefix(text, tt.text) || exitStatus(err) != tt.status {
				t.Errorf("%q, status %d; want %q, %d", text, exitStatus(err), tt.text, tt.status)
			}
		})
	}
}

func TestChainFault(t *testing.T) {
	whole := func() []wire.SwitchRecord {
		return []wire.SwitchRecord{
			{Seq: 9, Capsule: one, Previous: "8", Hash: "9"},
			{Seq: 7, Capsule: one, Previous: "6", Hash: "7"},
			{Seq: 6, Capsule: one, Previous: "5", Hash: "6"},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(records []wire.SwitchRecord, chain *wire.Chain) []wire.SwitchRecord
		want   string // "" for whole
	}{
		{"whole", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { return r }, ""},
		{"one was added meanwhile", func(r []wire.SwitchRecord, c *wire.Chain) []wire.SwitchRecord { c.Length, c.Head = 10, "10"; return r }, ""},
		{"none", func([]wire.SwitchRecord, *wire.Chain) []wire.SwitchRecord { return nil }, ""},
		{"the daemon's walk", func(r []wire.SwitchRecord, c *wire.Chain) []wire.SwitchRecord {
			c.Fault = "record 2 is missing"
			return r
		}, "record 2 is missing"},
		{"altered", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[2].Hash = "x"; return r }, "record 7 does not follow from record 6"},
		{"the newest altered", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[0].Hash = "x"; return r }, "record 9 is the newest"},
		{"cut off at the end", func(r []wire.SwitchRecord, c *wire.Chain) []wire.SwitchRecord { c.Length, c.Head = 8, "8"; return r }, "record 9 is not among the 8"},
		{"another's", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[1].Capsule = "x"; return r }, "record 7 is of capsule x"},
		{"out of order", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[0], r[1] = r[1], r[0]; return r }, "record 9 comes after record 7"},
		{"twice", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[1] = r[2]; return r }, "record 6 comes after record 6"},
		{"without a hash", func(r []wire.SwitchRecord, _ *wire.Chain) []wire.SwitchRecord { r[1].Hash = ""; return r }, "record 7 is not among"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain := wire.Chain{Length: 9, Head: "9"}
			if got := chainFault(one, tt.change(whole(), &chain), chain); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
