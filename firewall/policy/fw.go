package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ParseFW reads a policy file of the original: a fragment in the words of iptables-save with %IP% and %SSH_PORT%. It
// becomes the policy that was in effect under it; what cannot be said as a policy is a fault, so nothing of the file
// is ever lost or widened unsaid. docs/policies.md says how it is read. The error is of type [Faults].
//
// Two things are kept closer than the original did, and warned of: a secure policy answers names from an (empty)
// static table where the original's resolver asked the world, and where INPUT accepts everything, that is the host's
// DHCP and DNS and none of its other services.
func ParseFW(source string, text []byte) (Loaded, error) {
	if len(text) > maxFileBytes {
		return Loaded{}, Faults{{source, 0, fmt.Sprintf("the file has %d bytes: want at most %d", len(text), maxFileBytes)}}
	}
	f := fwFile{Policy: blank(source, text), notes: map[string][]int{}}
	f.read(string(text))
	if len(f.faults) == 0 {
		f.translate()
	}
	f.faults = append(f.faults, f.check(places{})...)
	if err := f.faults.err(); err != nil {
		return Loaded{}, err
	}
	return Loaded{f.Policy, f.warnings()}, nil
}

// fwFile collects what one file says.
type fwFile struct {
	Policy
	chains   map[string][]fwRule // of the filter table
	replies  []fwRule            // of FORWARD: those about packets to the capsule
	hostAt   string              // the one destination that rules of INPUT name, taken for the host's address
	keyLine  int                 // of the first rule of INPUT that opens DHCP or DNS
	everyone bool                // everything is accepted at the end
	faults   Faults
	notes    map[string][]int // text -> the lines that it is about
}

func (f *fwFile) fault(line int, err error) {
	f.faults = append(f.faults, Fault{f.Source, line, err.Error()})
}

func (f *fwFile) faultf(line int, format string, args ...any) {
	f.fault(line, fmt.Errorf(format, args...))
}

func (f *fwFile) note(line int, text string) { f.notes[text] = append(f.notes[text], line) }

// warnings are the notes in the order of their lines.
func (f *fwFile) warnings() []string {
	type warning struct {
		line int
		text string
	}
	var all []warning
	for text, lines := range f.notes {
		if more := len(lines) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more lines, up to line %d)", more, lines[more])
		}
		all = append(all, warning{lines[0], text})
	}
	slices.SortFunc(all, func(a, b warning) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text)) })
	var texts []string
	for _, w := range all {
		texts = append(texts, Fault{f.Source, w.line, w.text}.String())
	}
	return texts
}

// fwTables are the tables that files of the original have, and the chains that they may declare.
var fwTables = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
}

// counters may stand before a rule (iptables-save -c).
var counters = regexp.MustCompile(`^\[[0-9]+:[0-9]+\]\s+`)

// read takes the file apart into rules.
func (f *fwFile) read(text string) {
	f.chains = map[string][]fwRule{}
	table, opened := "", 0
	line := 0
	for l := range strings.Lines(text) {
		line++
		l = counters.ReplaceAllString(strings.TrimSpace(l), "")
		switch {
		case l == "" || l[0] == '#':
		case l[0] == '*' && table != "":
			f.faultf(line, "table %s begins before COMMIT of the one before: want COMMIT first", quote(l))
			table = l[1:]
		case l[0] == '*' && fwTables[l[1:]] == nil:
			f.faultf(line, "table %s is not understood: want *filter, *nat or *mangle", quote(l))
			table, opened = l[1:], line
		case l[0] == '*':
			table, opened = l[1:], line
		case table == "":
			f.faultf(line, "%s stands in no table: want *filter, *nat or *mangle before it", quote(l))
		case l == "COMMIT":
			table = ""
		case l[0] == ':':
			f.declaration(line, table, l)
		default:
			f.rule(line, table, l)
		}
	}
	if table != "" {
		f.faultf(opened, "no COMMIT ends table %s, so that none of it was in effect: want COMMIT", quote(table))
	}
}

// declaration reads ":CHAIN POLICY [counters]".
func (f *fwFile) declaration(line int, table, text string) {
	words := strings.Fields(text[1:])
	if len(words) < 2 || fwTables[table] != nil && !slices.Contains(fwTables[table], words[0]) {
		f.faultf(line, "%s declares a chain of its own: want the rules in INPUT and FORWARD themselves", quote(text))
	} else if table == "filter" && words[1] == "ACCEPT" {
		f.note(line, "the default of a chain is not used: what no rule accepts is dropped")
	}
}

func (f *fwFile) rule(line int, table, text string) {
	words, err := fwWords(text)
	if err == nil && words[0] != "-A" && words[0] != "--append" {
		err = fmt.Errorf("%s: want a line that begins with -A, :, *, # or COMMIT", quote(text))
	}
	var r fwRule
	if err == nil {
		r, err = parseFWRule(line, table, words)
	}
	if err == nil {
		err = f.place(r)
	}
	if err != nil {
		f.fault(line, err)
	}
}

// place puts a rule where it belongs. Of nat and mangle there is one rule each that means something.
func (f *fwFile) place(r fwRule) error {
	bare := len(r.src)+len(r.dst)+len(r.sports)+len(r.states) == 0
	switch r.table {
	case "nat":
		if r.chain != "PREROUTING" || r.verdict != "DNAT" || r.protocol != TCP || !r.sshPort || !bare || r.from || r.to ||
			r.target != fwAddress+":22" {
			return fmt.Errorf("a rule of nat that is not understood: want only -A PREROUTING -p tcp --dport %s -j DNAT --to-destination %s:22", fwSSHPort, fwAddress)
		}
		f.SSH = true
	case "mangle":
		if r.chain != "POSTROUTING" || r.verdict != "CHECKSUM" {
			return fmt.Errorf("a rule of mangle that is not understood: want only -A POSTROUTING ... -j CHECKSUM --checksum-fill, which is not needed here")
		}
	case "filter":
		switch {
		case !slices.Contains(fwTables["filter"], r.chain):
			return fmt.Errorf("chain %s is not understood: want INPUT, FORWARD or OUTPUT", quote(r.chain))
		case r.verdict != "ACCEPT" && r.verdict != "DROP" || r.target != "" || r.sshPort:
			return fmt.Errorf("a rule of filter that is not understood: want ACCEPT, DROP, REJECT or RETURN, and ports by number")
		}
		f.chains[r.chain] = append(f.chains[r.chain], r)
	}
	return nil
}

// translate says what the rules of filter were in effect.
func (f *fwFile) translate() {
	for _, r := range f.chains["OUTPUT"] {
		f.note(r.line, "OUTPUT is not used: no packet of a capsule ever passed it")
	}
	f.forward()
	f.input()
	f.Secure = !f.everyone && !f.SSH
	if f.Secure && f.DNS == Forward {
		f.DNS = Static
		f.note(f.keyLine, "questions for names are answered from a static table, here an empty one, and never forwarded: write the policy in TOML to give it [hosts]")
	}
	slices.SortStableFunc(f.Rules, func(a, b Rule) int { return cmp.Compare(a.Line, b.Line) })
	if i := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.Deny && !r.Host }); i >= 0 && f.SSH {
		f.note(f.Rules[i].Line, "the forwarded ssh port is open to peers that the capsule must not reach, too")
	}
}
