package systemd_test

import (
	"bufio"
	"context"
	"strings"
	"testing"
	"time"
)

// cursor is a place in the machine's journal.
func (m machine) cursor(t *testing.T) string {
	t.Helper()
	_, cursor, found := strings.Cut(m.run(t, "journalctl", "--lines=1", "--show-cursor", "--quiet"), "-- cursor: ")
	if !found {
		t.Fatal("the journal has no cursor")
	}
	return cursor
}

// await reads the unit's journal from cursor on, what is there and then what comes, until each of texts was seen, in
// their order. It is how the tests wait: for what the service manager and the daemon say that they did.
func (m machine) await(t *testing.T, cursor string, texts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := m.command(ctx, "journalctl", "--follow", "--output=cat", "--unit=capsuled.service", "--after-cursor="+cursor)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// What nsenter started outlives it and holds the pipe open, so the deadline ends the reading itself.
	defer context.AfterFunc(ctx, func() { out.Close() })()
	defer func() {
		cancel()
		_ = cmd.Wait() // ended by us
	}()
	var seen []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		seen = append(seen, lines.Text())
		if strings.Contains(lines.Text(), texts[0]) {
			if texts = texts[1:]; len(texts) == 0 {
				return
			}
		}
	}
	t.Fatalf("the journal does not say %q:\n%s", texts[0], strings.Join(seen, "\n"))
}
