package pgsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// stateFile holds the last good limits, in the data directory.
const stateFile = "limits.json"

// saveEvery bounds how often the state file is written.
const saveEvery = time.Second

// state is what the file holds.
type state struct {
	Database string       `json:"database"` // host:port/name: the limits of another database are not used
	ID       int64        `json:"id"`
	SavedAt  time.Time    `json:"saved_at"`
	Limits   []limits.Row `json:"limits"`
}

// keepState writes the file after changes, at most once a second, and a last time when ctx ends.
func (s *Sync) keepState(ctx context.Context) {
	if s.cfg.DataDir == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case <-s.dirty:
				s.save(ctx)
			default:
			}
			return
		case <-s.dirty:
			s.save(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveEvery):
		}
	}
}

func (s *Sync) save(ctx context.Context) {
	if err := s.writeState(); err != nil {
		s.metrics.loadErrors.WithLabelValues("state_file").Inc()
		s.log.WarnContext(ctx, "the last good limits could not be written to the data directory", slog.Any("error", err))
	}
}

func (s *Sync) writeState() error {
	t := s.current.Load()
	st := state{Database: s.target, ID: t.ID(), SavedAt: time.Now(), Limits: make([]limits.Row, 0, t.Len())}
	for l := range t.All() {
		st.Limits = append(st.Limits, limits.RowOf(l))
	}
	body, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encoding the limits: %w", err)
	}
	return atomicfile.Write(s.statePath(), body)
}

func (s *Sync) statePath() string { return filepath.Join(s.cfg.DataDir, stateFile) }

// readState returns what was saved of this very database; ok is false where there is nothing.
func (s *Sync) readState() (st state, ok bool, err error) {
	if s.cfg.DataDir == "" {
		return state{}, false, nil
	}
	body, err := os.ReadFile(s.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("reading the last good limits: %w", err)
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return state{}, false, fmt.Errorf("reading the last good limits from %s: %w", s.statePath(), err)
	}
	return st, st.Database == s.target, nil
}

// recallID remembers how far the database had come, so that an older one is not believed.
func (s *Sync) recallID() {
	st, ok, err := s.readState()
	if err != nil {
		s.metrics.loadErrors.WithLabelValues("state_file").Inc()
		s.log.Warn("the last good limits are of no use", slog.Any("error", err)) //nolint:sloglint // there is no request
		return
	}
	if ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lastID = max(s.lastID, st.ID)
	}
}

// serveState puts the saved limits in force where Postgres has not answered in time.
func (s *Sync) serveState() {
	st, ok, err := s.readState()
	if err != nil || !ok || s.current.Load() != nil {
		return
	}
	rows := make([]limits.Limit, 0, len(st.Limits))
	for _, r := range st.Limits {
		l, err := r.Limit()
		if err != nil {
			s.metrics.loadErrors.WithLabelValues("invalid_row").Inc()
			continue
		}
		rows = append(rows, l)
	}
	t, err := limits.NewTable(nil, rows, limits.Stamp{ID: st.ID, AtNS: s.clock.NowNS(), LoadedAt: st.SavedAt})
	if err != nil {
		s.log.Warn("the last good limits are of no use", slog.Any("error", err)) //nolint:sloglint // there is no request
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Load() != nil {
		return
	}
	s.current.Store(t)
	s.metrics.stale.Set(1)
	s.fault = fmt.Errorf("limits are served as of change %d, saved at %s: Postgres does not answer", st.ID, st.SavedAt.Format(time.RFC3339))
	s.log.Warn("Postgres does not answer; the last good limits are served", slog.Int64("snapshot", st.ID), slog.Time("saved_at", st.SavedAt)) //nolint:sloglint // there is no request
}
