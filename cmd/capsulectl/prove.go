package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// promises in words, for those who do not know them by number.
var promises = map[string]string{
	"P1": "while data is attached, a secure policy is in force in every layer",
	"P2": "nothing written in secure mode stays, but on the secure volume and the results spool",
	"P3": "neither volume can be read in maintenance mode",
}

var proofFields = []column[wire.Proof]{
	{"capsule", func(p wire.Proof) string { return p.Capsule }},
	{"at", func(p wire.Proof) string { return p.At.UTC().Format(time.RFC3339) }},
	{"state", func(p wire.Proof) string { return p.State }},
	{"mode", func(p wire.Proof) string { return p.Mode }},
	{"policy", func(p wire.Proof) string { return p.Policy }},
	{"volumes", func(p wire.Proof) string { return cmp.Or(strings.Join(p.Volumes, ", "), "none attached") }},
	{"clean point", func(p wire.Proof) string { return cmp.Or(p.CleanPoint, "none") }},
	{"rules", func(p wire.Proof) string { return cmp.Or(p.RulesHash, "could not be read") }},
	{"domain", func(p wire.Proof) string { return cmp.Or(p.DomainHash, "none runs") }},
	{"records", func(p wire.Proof) string { return chainText(p.Records) }},
}

func chainText(c wire.Chain) string {
	switch {
	case c.Fault != "":
		return "BROKEN: " + c.Fault
	case c.Length == 0:
		return "none yet on this host"
	}
	return fmt.Sprintf("whole: %d on this host, the newest is %s", c.Length, c.Head)
}

func (a *app) proveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prove CAPSULE",
		Short: "Hold kernel and libvirt, as they are now, against the promises",
		Long: fmt.Sprintf(`Have the daemon look at kernel and libvirt now, and print everything that it looked at and what it found, promise
by promise. It changes nothing. The last line is PROVED, NOT PROVED or UNKNOWN; the exit status is %d, %d or %d.`,
			exitOK, exitNotProved, exitUnknown),
		Example:           "  capsulectl prove 0a1b\n  capsulectl prove 0a1b --json > proof.json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
		RunE: a.with(about(resolveCapsules, func(ctx context.Context, c *client.Client, vmid string, _ []string) error {
			proof, err := c.Proof(ctx, vmid)
			if err != nil {
				return err
			}
			text, verdict := judge(proof)
			if a.json {
				err = a.printJSON(proof)
			} else {
				err = printProof(a.out, proof, text)
			}
			if err != nil {
				return err
			}
			return verdict
		})),
	}
}

// judge says what a proof comes to: the last line, and the error that gives the exit status. It does not believe the
// daemon's own summary against its checks.
func judge(p wire.Proof) (string, error) {
	failed, unknown := 0, 0
	for _, c := range p.Checks {
		switch {
		case c.Unknown:
			unknown++
		case !c.OK:
			failed++
		}
	}
	switch {
	case failed > 0:
		return fmt.Sprintf("NOT PROVED: %d of %d checks failed", failed, len(p.Checks)), reported{answerError{status: exitNotProved}}
	case unknown > 0:
		return fmt.Sprintf("UNKNOWN: %d of %d checks could not be made, none failed", unknown, len(p.Checks)), reported{answerError{status: exitUnknown}}
	case p.Unknown || p.Proved && len(p.Checks) == 0:
		return "UNKNOWN: the daemon does not say what it could not look at", reported{answerError{status: exitUnknown}}
	case !p.Proved:
		return "NOT PROVED: the daemon does not say why", reported{answerError{status: exitNotProved}}
	}
	return fmt.Sprintf("PROVED: %d checks", len(p.Checks)), nil
}

func printProof(w io.Writer, p wire.Proof, verdict string) error {
	if err := printBlock(w, proofFields, p); err != nil {
		return err
	}
	checks := slices.SortedStableFunc(slices.Values(p.Checks), func(x, y wire.Check) int { return cmp.Compare(x.Promise, y.Promise) })
	for i, c := range checks {
		if i == 0 || c.Promise != checks[i-1].Promise {
			fmt.Fprintf(w, "\n%s\n", printable(strings.TrimSuffix(c.Promise+": "+promises[c.Promise], ": ")))
		}
		mark := "ok     "
		switch {
		case c.Unknown:
			mark = "UNKNOWN"
		case !c.OK:
			mark = "FAILED "
		}
		fmt.Fprintf(w, "  %s  %s: %s\n", mark, printable(c.What), printable(c.Found))
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}
