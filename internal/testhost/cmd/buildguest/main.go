// Buildguest builds the test guest in build/guest of the module, unless it is there as it should be.
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
	img, err := testhost.BuildGuest(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "buildguest:", err)
		os.Exit(1)
	}
	fmt.Println(img.Qcow2)
	fmt.Println(img.Raw)
	fmt.Println(img.KeyPath)
}
