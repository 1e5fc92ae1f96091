package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/firewall/policy"
)

// What is said of policy files without a daemon: the reader of policies is pure, and the same that the daemon has.

// maxPolicyFile bounds what is read of a file; the reader refuses less than that.
const maxPolicyFile = 4 << 20

// checked is what policy check --json prints.
type checked struct {
	Faults   []fault  `json:"faults"`
	Warnings []string `json:"warnings"`
}

type fault struct {
	File string `json:"file"`
	Line int    `json:"line"` // 0 when it belongs to no line
	Text string `json:"text"`
}

func (a *app) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|DIRECTORY...",
		Short: "Look for faults in policy files, without a daemon",
		Long: fmt.Sprintf(`Read policy files (.toml, or .fw of the scripts of old) as the daemon would, and print every fault as file:line: text, and
every warning. Of a directory the whole is checked: names, owners, and that what is in force with data attached is secure.
Nothing is applied and no daemon is asked. The exit status is %d when there is a fault.`, exitOther),
		Example: `  capsulectl policy check secure.toml && install -m 644 secure.toml /etc/capsuled/policies/
  capsulectl policy check /etc/capsuled/policies && capsulectl policy reload`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return []cobra.Completion{"toml", "fw"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(_ *cobra.Command, files []string) error {
			a.began = true
			return a.checkPolicies(files)
		},
	}
}

// checkPolicies prints what is wrong with the files. One that cannot be read does not keep the others from being.
func (a *app) checkPolicies(files []string) error {
	all := checked{Faults: []fault{}, Warnings: []string{}}
	err := each(a, files, func(file string) error {
		warnings, err := checkPolicy(file)
		found, ok := errors.AsType[policy.Faults](err)
		if err != nil && !ok {
			return err
		}
		for _, f := range found {
			all.Faults = append(all.Faults, fault{File: f.Source, Line: f.Line, Text: f.Text})
			if !a.json {
				fmt.Fprintln(a.out, printable(f.String()))
			}
		}
		all.Warnings = append(all.Warnings, warnings...)
		for _, w := range warnings {
			if !a.json {
				fmt.Fprintf(a.out, "%s (warning)\n", printable(w))
			}
		}
		return nil
	})
	if a.json {
		err = errors.Join(err, a.printJSON(all))
	}
	if err == nil && len(all.Faults) > 0 {
		err = reported{answerError{status: exitOther}}
	}
	return err
}

// checkPolicy reads a file, or a directory as the daemon does, and returns the warnings.
func checkPolicy(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		loaded, err := readPolicy(path)
		return loaded.Warnings, err
	}
	all, err := policy.LoadDir(path)
	var warnings []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		warnings = append(warnings, all[name].Warnings...)
	}
	return warnings, err
}

// readPolicy reads a policy from a file. An error of the policy is policy.Faults; any other is of the file.
func readPolicy(file string) (policy.Loaded, error) {
	f, err := os.Open(file)
	if err != nil {
		return policy.Loaded{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPolicyFile))
	if err != nil {
		return policy.Loaded{}, err
	}
	return policy.Parse(file, text)
}

// explainFile says what becomes of a packet under the policy of a file. The words are those that the daemon would say.
func explainFile(file, packet string) (wire.Explanation, error) {
	loaded, err := readPolicy(file)
	if err != nil {
		return wire.Explanation{}, err
	}
	pk, err := loaded.Packet(packet)
	if err != nil {
		return wire.Explanation{}, usageError{err}
	}
	v := loaded.Explain(pk)
	return wire.Explanation{Packet: pk.String(), Policy: loaded.Name, Allowed: v.Allowed, Line: v.Line, Source: loaded.Source, Why: v.Why}, nil
}
