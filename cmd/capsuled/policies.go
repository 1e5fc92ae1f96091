package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/capsuled/capsuled/firewall/policy"
)

// readPolicies is what the daemon calls at start and at each reload: the policies of a host, each from its file in dir, or
// as shipped where it has none. What files of the old format say and means otherwise here is logged each time.
func readPolicies(dir string, log *slog.Logger) func() ([]policy.Policy, error) {
	return func() ([]policy.Policy, error) {
		loaded, err := policy.LoadDir(dir)
		if err != nil {
			return nil, err
		}
		list := make([]policy.Policy, 0, len(loaded))
		for _, name := range policy.ShippedNames() {
			for _, w := range loaded[name].Warnings {
				log.LogAttrs(context.Background(), slog.LevelWarn, "policy file", slog.String("policy", name), slog.String("warning", w))
			}
			list = append(list, loaded[name].Policy)
		}
		return list, nil
	}
}

// checkPolicies writes what is wrong with the policy files in dir to w, a line for each fault and warning; false means
// that there are faults, and the files will not do.
func checkPolicies(dir string, w io.Writer) bool {
	loaded, err := policy.LoadDir(dir)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		for _, f := range faults {
			fmt.Fprintln(w, f)
		}
		return false
	}
	if err != nil {
		fmt.Fprintln(w, err)
		return false
	}
	for _, name := range policy.ShippedNames() {
		for _, warning := range loaded[name].Warnings {
			fmt.Fprintln(w, "warning: "+warning)
		}
	}
	return true
}
