package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	fs := flag.NewFlagSet("probe", flag.ContinueOnError)
	fs.SetOutput(errs)
	name := fs.String("i", "", "`interface` to send frames on (default: the first that is not loopback)")
	around := fs.String("mark", "", "`text` before and behind the name in every marker: small letters and digits")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	script, err := readScript(in, *around)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	card, err := openNIC(*name)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	defer card.close()
	(&report{out: out}).all(script, card)
	return 0
}

// report writes what came of each attack.
type report struct {
	mu  sync.Mutex
	out io.Writer
}

// all runs a script: what waits for answers runs beside the rest.
func (r *report) all(script []attack, card *nic) {
	var waiting sync.WaitGroup
	for _, a := range script {
		do := func() { r.one(a.name, func() (string, error) { return a.do(card) }) }
		if a.waits {
			waiting.Go(do)
		} else {
			do()
		}
	}
	waiting.Wait()
}

func (r *report) one(name string, do func() (string, error)) {
	what, err := do()
	if err != nil {
		what = "error: " + err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%s %s\n", name, what)
}
