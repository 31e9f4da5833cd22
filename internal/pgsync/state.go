package pgsync

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// stateFile holds the last good limits, in the data directory: a line with a stateHeader, then one
// line for each row.
const stateFile = "limits.json"

// stateHeader says what the rows of the state file are.
type stateHeader struct {
	Database string    `json:"database"` // host:port/name: the limits of another database are not used
	ID       int64     `json:"id"`       // newest change
	Rows     int       `json:"rows"`
	LoadedAt time.Time `json:"loaded_at"` // from Postgres

	atMost int // rows that a file of its size can have
}

// keep has the limits in force written to the state file, if they are not there yet.
func (s *Sync) keep(t *limits.Table) {
	if s.cfg.DataDir == "" || s.keptID == t.ID() {
		return
	}
	s.keptID = t.ID()
	s.kept.Put(t)
}

// encode writes the content of the state file.
func (s *Sync) encode(w io.Writer, t *limits.Table) error {
	enc := json.NewEncoder(w)
	err := enc.Encode(stateHeader{Database: s.target, ID: t.ID(), Rows: t.Len(), LoadedAt: t.LoadedAt().UTC()})
	for l := range t.All() {
		if err != nil {
			return err
		}
		err = enc.Encode(limits.RowOf(l))
	}
	return err
}

// recall reads which state of this database was saved, so that an older one is not believed, and
// returns it; nil where there is none. Files that a write has left when the process was killed in
// the middle of it are removed.
func (s *Sync) recall(ctx context.Context) *stateHeader {
	if s.cfg.DataDir == "" {
		return nil
	}
	atomicfile.RemoveLeft(s.kept.Path())
	var h *stateHeader
	err := s.readState(func(header stateHeader, _ *bufio.Reader) error {
		h = &header
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		s.unusable(ctx, err)
		return nil
	case h.Database != s.target:
		s.log.WarnContext(ctx, "the last good limits are those of another database and are not used",
			slog.String("theirs", h.Database), slog.String("database", s.target))
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = mark{h.ID, h.Rows}
	return h
}

func (s *Sync) unusable(ctx context.Context, err error) {
	s.metrics.loadErrors.WithLabelValues("state_file").Inc()
	s.log.ErrorContext(ctx, "the last good limits cannot be used", slog.Any("error", err))
}

// standIn puts the saved limits in force if Postgres does not answer within StartTimeout, or its
// first answer is of no use.
func (s *Sync) standIn(ctx context.Context, saved *stateHeader, tried <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-tried:
	case <-time.After(s.cfg.StartTimeout):
	}
	if saved == nil || s.current.Load() != nil {
		return
	}
	var rows []limits.Limit
	err := s.readState(func(h stateHeader, r *bufio.Reader) (err error) {
		rows, err = s.readSaved(ctx, h, r)
		return err
	})
	if err == nil {
		err = s.publish(func(prev *limits.Table) (*limits.Table, error) {
			if prev != nil { // Postgres has answered meanwhile
				return nil, nil
			}
			return s.serveSaved(ctx, saved, rows)
		})
	}
	if err != nil {
		s.unusable(ctx, err)
	}
}

func (s *Sync) serveSaved(ctx context.Context, h *stateHeader, rows []limits.Limit) (*limits.Table, error) {
	t, err := limits.NewTable(nil, rows, limits.Stamp{ID: h.ID, AtNS: s.clock.NowNS(), LoadedAt: h.LoadedAt})
	if err != nil {
		return nil, fmt.Errorf("compiling the rows of %s: %w", s.kept.Path(), err)
	}
	s.metrics.stale.Set(1)
	s.log.WarnContext(ctx, "the last good limits are served until Postgres answers",
		slog.Int("limits", t.Len()), slog.Int64("snapshot", h.ID), slog.Time("loaded_at", h.LoadedAt))
	return t, nil
}
