package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/capsuled/capsuled/api/client"
	"github.com/capsuled/capsuled/api/wire"
)

// pending is an operation to wait for.
type pending struct {
	id     string // of the operation
	kind   string
	target string
}

// label names it on a line: the kind and the beginning of the id.
func (p pending) label() string {
	return p.kind + " " + p.target[:min(8, len(p.target))]
}

// wait follows the operations one after the other and returns how they ended. A failed one is an error; the others are
// still waited for. A signal ends the waiting and nothing else.
func (a *app) wait(ctx context.Context, c *client.Client, all []pending) ([]wire.Operation, error) {
	var ended []wire.Operation
	done := 0
	err := each(a, all, func(p pending) error {
		op, err := a.follow(ctx, c, p)
		if errors.Is(err, context.Canceled) {
			return err
		}
		done++
		if err != nil {
			return err
		}
		ended = append(ended, op)
		if op.State == "failed" {
			return failedError{op}
		}
		return nil
	})
	if errors.Is(err, context.Canceled) {
		return ended, interrupted(all[done:])
	}
	return ended, err
}

func interrupted(rest []pending) error {
	var e interruptedError
	for _, p := range rest {
		e.ids = append(e.ids, p.id)
	}
	return e
}

// follow waits for one operation and shows how it goes.
func (a *app) follow(ctx context.Context, c *client.Client, p pending) (wire.Operation, error) {
	if p.id == "" {
		return wire.Operation{}, errors.New("the daemon did not name the operation: see capsulectl operation list")
	}
	line := newLine(a.err, p.label())
	states := make(chan wire.Operation)
	var last wire.Operation
	var err error
	go func() {
		defer close(states)
		last, err = c.Wait(ctx, p.id, func(op wire.Operation) { states <- op })
	}()
	for {
		select {
		case op, open := <-states:
			if !open { // last and err were written before the channel was closed
				line.end(last, err == nil)
				return last, err
			}
			line.show(op)
		case <-line.ticks:
			line.draw()
		}
	}
}

// line shows an operation: on a terminal one line drawn again in its place, below those of steps that found something;
// elsewhere a line for each step that ends.
type line struct {
	w     io.Writer
	label string
	fd    int // of the terminal, or -1
	ticks <-chan time.Time
	stop  func()
	op    wire.Operation
	seen  map[string]string // state last printed, by step; on a terminal those of steps with a note alone
}

func newLine(w io.Writer, label string) *line {
	l := &line{w: w, label: label, fd: terminal(w), stop: func() {}, seen: map[string]string{}}
	if l.fd >= 0 {
		ticker := time.NewTicker(200 * time.Millisecond)
		l.ticks, l.stop = ticker.C, ticker.Stop
	}
	return l
}

// terminal returns the descriptor of the terminal that w is and that can move its cursor, or -1.
func terminal(w any) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return -1
	}
	return int(f.Fd())
}

func (l *line) show(op wire.Operation) {
	l.op = op
	for _, step := range op.Steps {
		if step.State == "pending" || step.State == "running" || l.seen[step.Name] == step.State {
			continue
		}
		if l.fd >= 0 && step.Note == "" { // the line that is drawn again says enough of the others
			continue
		}
		l.seen[step.Name] = step.State
		if l.fd >= 0 {
			fmt.Fprint(l.w, clear)
		}
		fmt.Fprintln(l.w, ended(l.label, step))
	}
	if l.fd >= 0 {
		l.draw()
	}
}

// ended is the line of a step that has ended.
func ended(label string, s wire.Step) string {
	text := fmt.Sprintf("%s: %s %s (%s)", label, s.Name, s.State, seconds(s.Seconds))
	if s.Note != "" {
		text += ": " + s.Note
	}
	return printable(text)
}

// clear moves to the beginning of the line and erases it.
const clear = "\r\x1b[K"

func (l *line) draw() {
	if l.op.ID == "" {
		return
	}
	width, _, err := term.GetSize(l.fd)
	if err != nil || width <= 0 {
		width = 80
	}
	// One column stays free: a full line wraps on some terminals, and then it cannot be drawn again.
	fmt.Fprint(l.w, clear, render(l.label, l.op, time.Since(l.op.Started), width-1))
}

func (l *line) end(op wire.Operation, known bool) {
	l.stop()
	if l.fd >= 0 {
		fmt.Fprint(l.w, clear)
	}
	if known {
		fmt.Fprintf(l.w, "%s: %s%s\n", printable(l.label), printable(op.State), took(op))
	}
}

// render is the line of a running operation in at most width characters: name, bar, percent, step, time.
func render(label string, op wire.Operation, elapsed time.Duration, width int) string {
	const cells = 20
	percent := max(0, min(100, op.Progress))
	full := percent * cells / 100
	bar := " [" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
	// The clocks of two hosts may differ.
	clock := []rune(" " + seconds(max(0, elapsed).Seconds()))
	room := max(0, width-len(clock))
	rest := fmt.Sprintf(" %3d%% %s", percent, printable(op.Step))
	text := []rune(printable(label) + bar + rest)
	if len(text) > room { // the bar says nothing that the percent does not
		text = []rune(printable(label) + rest)
	}
	text = append(text[:min(len(text), room)], clock...)
	return string(text[:min(len(text), max(0, width))])
}

func took(op wire.Operation) string {
	if op.Ended == nil {
		return ""
	}
	return " in " + seconds(op.Ended.Sub(op.Started).Seconds())
}

func seconds(s float64) string {
	switch {
	case s < 1:
		return fmt.Sprintf("%.2f s", s)
	case s < 60:
		return fmt.Sprintf("%.1f s", s)
	}
	return time.Duration(s * float64(time.Second)).Truncate(time.Second).String()
}
