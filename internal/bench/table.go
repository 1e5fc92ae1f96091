package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// table is a Markdown table whose columns line up in a terminal too.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) {
	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 { // names to the left, figures to the right
				cell, pad = pad+cell, ""
			}
			fmt.Fprintf(w, "| %s%s ", cell, pad)
		}
		fmt.Fprintln(w, "|")
	}
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	line(t.head)
	for i, n := range width {
		rule := strings.Repeat("-", n)
		if i > 0 {
			rule = rule[:n-1] + ":"
		}
		fmt.Fprintf(w, "| %s ", rule)
	}
	fmt.Fprintln(w, "|")
	for _, row := range t.rows {
		line(row)
	}
}

// sample is what one thing took, again and again.
type sample []time.Duration

// at is the value that a share of the sample does not exceed; 0.5 is the median.
func (s sample) at(share float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(share*float64(len(sorted)-1)+0.5)]
}

func (s sample) median() time.Duration { return s.at(0.5) }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// ratio is a over b.
func ratio(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	r := float64(a) / float64(b)
	if r >= 100 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.2f", r)
}
