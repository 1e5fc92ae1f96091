package main

import (
	"io"
	"log/slog"

	"github.com/capsuled/capsuled/systemd"
)

// Logger writes to stderr as [log] says.
func (c LogConfig) Logger(stderr io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: c.Level}
	switch {
	case c.Format == "json":
		return slog.New(slog.NewJSONHandler(stderr, opt))
	case c.Format == "journal", c.Format == "auto" && systemd.StderrIsJournal():
		return slog.New(systemd.JournalHandler(stderr, c.Level))
	}
	return slog.New(slog.NewTextHandler(stderr, opt))
}
