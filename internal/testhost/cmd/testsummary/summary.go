package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

const module = "github.com/capsuled/capsuled"

// event is a line of `go test -json` (go doc test2json, go help buildjson).
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64 // seconds
	Output      string
	ImportPath  string // of build events
	FailedBuild string // ImportPath of the build that kept the package from being tested
}

// tested is what is known of a package whose tests run.
type tested struct {
	output                  map[string]*strings.Builder // by test; "" holds what no test said
	running                 []string                    // in order of start
	passed, failed, skipped int
}

// summary gathers events and prints a package as soon as it ends.
type summary struct {
	out      io.Writer
	packages map[string]*tested
	builds   map[string]*strings.Builder // output of the compiler, by import path

	passed, failed int // tests; a package that fails without a failing test counts as one
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, packages: map[string]*tested{}, builds: map[string]*strings.Builder{}}
}

// read takes events until the input ends. What is no event is printed as it comes.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				fmt.Fprint(s.out, line)
			} else {
				s.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
	}
}

func (s *summary) take(e event) {
	if e.Action == "build-output" {
		builder(s.builds, e.ImportPath).WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := s.packages[e.Package]
	if p == nil {
		p = &tested{output: map[string]*strings.Builder{}}
		s.packages[e.Package] = p
	}
	switch {
	case e.Action == "output":
		builder(p.output, e.Test).WriteString(e.Output)
	case e.Action == "run":
		p.running = append(p.running, e.Test)
	case e.Action != "pass" && e.Action != "fail" && e.Action != "skip":
	case e.Test != "":
		s.endTest(p, e)
	default:
		s.endPackage(p, e)
		delete(s.packages, e.Package)
	}
}

func (s *summary) endTest(p *tested, e event) {
	for i, name := range p.running {
		if name == e.Test {
			p.running = append(p.running[:i], p.running[i+1:]...)
			break
		}
	}
	switch e.Action {
	case "pass":
		p.passed++
		delete(p.output, e.Test)
	case "skip":
		p.skipped++
		delete(p.output, e.Test)
	case "fail":
		p.failed++
		s.printOutput(p, e.Test)
	}
}

func (s *summary) endPackage(p *tested, e event) {
	name := "." + strings.TrimPrefix(e.Package, module)
	if e.Action == "skip" && p.passed+p.failed == 0 {
		fmt.Fprintf(s.out, "%-6s %-40s no tests\n", "-", name)
		return
	}
	if e.Action == "fail" {
		// A test that a panic or the time limit caught never ends.
		for _, t := range p.running {
			p.failed++
			s.printOutput(p, t)
		}
		if b := s.builds[e.FailedBuild]; e.FailedBuild != "" && b != nil {
			fmt.Fprint(s.out, b.String())
		}
		s.printOutput(p, "")
		p.failed = max(p.failed, 1)
	}
	verdict := map[string]string{"pass": "ok", "skip": "ok", "fail": "FAIL"}[e.Action]
	line := fmt.Sprintf("%-6s %-40s %7.1fs %5d tests", verdict, name, e.Elapsed, p.passed+p.failed)
	if p.failed > 0 {
		line += fmt.Sprintf(", %d failed", p.failed)
	}
	if p.skipped > 0 {
		line += fmt.Sprintf(", %d skipped", p.skipped)
	}
	fmt.Fprintln(s.out, line)
	s.passed += p.passed
	s.failed += p.failed
}

// printOutput prints what a test said, once.
func (s *summary) printOutput(p *tested, test string) {
	if b := p.output[test]; b != nil {
		fmt.Fprint(s.out, b.String())
		delete(p.output, test)
	}
}

// close prints the last line. Packages that never ended count as failed.
func (s *summary) close() {
	for name, p := range s.packages {
		s.endPackage(p, event{Action: "fail", Package: name})
	}
	clear(s.packages)
	fmt.Fprintf(s.out, "\n%d passed, %d failed\n", s.passed, s.failed)
}

func builder(m map[string]*strings.Builder, key string) *strings.Builder {
	if m[key] == nil {
		m[key] = &strings.Builder{}
	}
	return m[key]
}
