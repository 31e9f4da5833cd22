package main

import (
	"context"
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryRatio is the part of the cgroup's memory that Go may fill before it collects garbage ever
// more often; the rest is for what Go does not know of, such as sockets and files.
const memoryRatio = 0.9

// limitMemory sets Go's soft memory limit by that of the cgroup, so that a burst of garbage makes
// the collector work and not the kernel kill. GOMEMLIMIT in the environment wins. Where nothing
// limits the memory, or nothing can be told (/proc is away), Go goes on without a limit.
func limitMemory(limit memlimit.Provider, log *slog.Logger) {
	_, _ = memlimit.SetGoMemLimitWithOpts( // the log has what is wrong
		memlimit.WithProvider(limit), memlimit.WithRatio(memoryRatio), memlimit.WithLogger(slog.New(quiet{log.Handler()})))
}

// quiet makes every record one for debugging: no operator has to act on any of them.
type quiet struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements [slog.Handler].
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements [slog.Handler].
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
