package systemd

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// StderrIsJournal reports whether standard error leads to the journal.
func StderrIsJournal() bool {
	yes, err := journal.StderrIsJournalStream()
	return err == nil && yes
}

// priorities are syslog's (sd-daemon(3)), for slog levels from high to low.
var priorities = []struct {
	level  slog.Level
	prefix string
}{
	{slog.LevelError, "<3>"},
	{slog.LevelWarn, "<4>"},
	{slog.LevelInfo, "<6>"},
	{slog.LevelDebug - 1<<16, "<7>"},
}

// journalHandler has one text handler for each priority, since a handler's writer is not told the level.
type journalHandler []slog.Handler

// JournalHandler writes records of at least level to w as text lines with sd-daemon's priority prefix and without
// the time, which the journal adds. Each record is one line and one write.
func JournalHandler(w io.Writer, level slog.Leveler) slog.Handler {
	opt := &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}
	h := make(journalHandler, len(priorities))
	var mu sync.Mutex
	for i, p := range priorities {
		h[i] = slog.NewTextHandler(&prefixWriter{mu: &mu, w: w, prefix: p.prefix}, opt)
	}
	return h
}

func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool { return h[0].Enabled(ctx, l) }

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	for i, p := range priorities {
		if r.Level >= p.level {
			return h[i].Handle(ctx, r)
		}
	}
	return h[len(h)-1].Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(x slog.Handler) slog.Handler { return x.WithAttrs(attrs) })
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(x slog.Handler) slog.Handler { return x.WithGroup(name) })
}

func (h journalHandler) each(f func(slog.Handler) slog.Handler) slog.Handler {
	out := slices.Clone(h)
	for i := range out {
		out[i] = f(out[i])
	}
	return out
}

// prefixWriter puts prefix before each write.
type prefixWriter struct {
	mu     *sync.Mutex // guards w, which the handlers of all priorities share
	w      io.Writer
	prefix string
}

func (p *prefixWriter) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}
