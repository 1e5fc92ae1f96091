package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// recordColumns of the list of switches.
var recordColumns = []column[wire.SwitchRecord]{
	{"SEQ", func(r wire.SwitchRecord) string { return strconv.FormatInt(r.Seq, 10) }},
	{"AT", func(r wire.SwitchRecord) string { return r.At.UTC().Format(time.RFC3339) }},
	{"KIND", func(r wire.SwitchRecord) string { return r.Kind }},
	{"OUTCOME", func(r wire.SwitchRecord) string { return r.Outcome }},
	{"MODE", func(r wire.SwitchRecord) string { return r.Mode }},
	{"POLICY", func(r wire.SwitchRecord) string { return r.Policy }},
	{"CUT", cutText},
	{"TOOK", stepTime},
	{"ACTOR", func(r wire.SwitchRecord) string { return r.Actor }},
	{"HASH", func(r wire.SwitchRecord) string { return short(r.Hash) }},
	{"CAUSE", func(r wire.SwitchRecord) string { return r.Cause }},
}

// cutText is how many connections a switch cut. Unknown is not none.
func cutText(r wire.SwitchRecord) string {
	if r.Cut == nil {
		return "unknown"
	}
	return strconv.Itoa(*r.Cut)
}

// stepTime is how long the steps of a switch took.
func stepTime(r wire.SwitchRecord) string {
	if len(r.Steps) == 0 {
		return ""
	}
	sum := 0.0
	for _, s := range r.Steps {
		sum += s.Seconds
	}
	return seconds(sum)
}

// short is the beginning of a hash, enough to tell it from others.
func short(hash string) string { return hash[:min(12, len(hash))] }

func (a *app) recordsCommand() *cobra.Command {
	var verify bool
	cmd := &cobra.Command{
		Use:   "records CAPSULE",
		Short: "List the records of a capsule's switches",
		Long: fmt.Sprintf(`List the records that a capsule's switches left behind, newest first, one to a line; --json has all of each. Every
record holds the hash of the one before it on this host. With --verify the neighbours among them are compared, and the
daemon walks the records of the whole host; exit status %d when something does not fit. That the chain was not written anew
as a whole shows only when its newest hash is compared with one written down elsewhere.`, exitNotProved),
		Example:           "  capsulectl records 0a1b --verify\n  capsulectl records 0a1b --json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeInTurn(a.complete(capsuleCandidates)),
	}
	cmd.Flags().BoolVar(&verify, "verify", false, "check that the records fit together")
	cmd.RunE = a.with(about(resolveCapsules, func(ctx context.Context, c *client.Client, vmid string, _ []string) error {
		list, err := c.SwitchRecords(ctx, vmid)
		switch {
		case err != nil:
			return err
		case a.json:
			err = a.printJSON(list)
		default:
			err = printWide(a.out, recordColumns, list.Records, longText)
		}
		if err != nil || !verify {
			return err
		}
		return a.verify(ctx, c, vmid, list.Records)
	}))
	return cmd
}

// verify compares the records of one capsule with each other, and with the daemon's walk over all. The records were
// read first, so that the walk knows of each of them.
func (a *app) verify(ctx context.Context, c *client.Client, vmid string, records []wire.SwitchRecord) error {
	proof, err := c.Proof(ctx, vmid)
	if err != nil {
		return err
	}
	if fault := chainFault(vmid, records, proof.Records); fault != "" {
		return answerError{exitNotProved, "the records do not fit together: " + fault}
	}
	if a.json {
		return nil
	}
	_, err = fmt.Fprintf(a.out, "\n%s\n", printable(chainText(proof.Records)))
	return err
}

// chainFault says what does not fit in the records of one capsule, newest first, and the chain of all; "" when nothing.
func chainFault(vmid string, records []wire.SwitchRecord, chain wire.Chain) string {
	if chain.Fault != "" {
		return chain.Fault
	}
	for i, r := range records {
		switch {
		case r.Capsule != vmid:
			return fmt.Sprintf("record %d is of capsule %s", r.Seq, r.Capsule)
		case r.Hash == "" || r.Seq < 1 || r.Seq > chain.Length:
			return fmt.Sprintf("record %d is not among the %d of the host", r.Seq, chain.Length)
		case r.Seq == chain.Length && r.Hash != chain.Head:
			return fmt.Sprintf("record %d is the newest, and its hash is not that of the chain's end", r.Seq)
		case i == 0:
			continue
		}
		switch next := records[i-1]; {
		case r.Seq >= next.Seq:
			return fmt.Sprintf("record %d comes after record %d", r.Seq, next.Seq)
		case r.Seq == next.Seq-1 && r.Hash != next.Previous:
			return fmt.Sprintf("record %d does not follow from record %d", next.Seq, r.Seq)
		}
	}
	return ""
}
