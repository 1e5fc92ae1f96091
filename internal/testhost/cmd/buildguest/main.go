// Buildguest builds the test guests in build/guest of the module, unless they are there as they should be.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/capsuled/capsuled/internal/testhost"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	plain, withGenerationID, err := testhost.BuildAllGuests(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "buildguest:", err)
		os.Exit(1)
	}
	for _, img := range []testhost.GuestImage{plain, withGenerationID} {
		fmt.Println(img.Qcow2)
		fmt.Println(img.Raw)
	}
	fmt.Println(plain.KeyPath)
}
