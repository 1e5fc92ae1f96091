package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/capsuled/capsuled/api/wire"
)

func (a *app) policyCheckCommand() *cobra.Command { return &cobra.Command{Use: "check"} }

func explainFile(file, packet string) (wire.Explanation, error) {
	return wire.Explanation{}, errors.New("not built yet")
}
