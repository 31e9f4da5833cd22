package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/tps-agent/ratelimitd/internal/spool"
	"github.com/tps-agent/ratelimitd/internal/usage"
)

// lockEarly locks the data directory where something will be kept there for sure: the last good limits,
// the log of transactions. A disk that takes nothing does not keep limits from being served: whoever
// writes locks it later.
func (s *server) lockEarly() error {
	if s.cfg.database == "" && !s.cfg.recorder.kept() {
		return nil
	}
	err := s.lockDataDir()
	if spool.DiskFault(err) {
		s.log.Error("the data directory cannot be written: nothing is kept for the next start until it can", slog.Any("error", err))
		return nil
	}
	return err
}

// lockDataDir makes the data directory and keeps other processes out of it.
func (s *server) lockDataDir() error {
	s.locking.Lock()
	defer s.locking.Unlock()
	if s.lock != nil {
		return nil
	}
	if err := os.MkdirAll(s.cfg.dataDir, 0o750); err != nil {
		return fmt.Errorf("TPS_DATA_DIR=%q: %w", s.cfg.dataDir, err)
	}
	lock := flock.New(filepath.Join(s.cfg.dataDir, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("TPS_DATA_DIR=%q: locking it: %w", s.cfg.dataDir, err)
	}
	if !locked {
		return fmt.Errorf("TPS_DATA_DIR=%q: another ratelimitd uses it; each process needs its own", s.cfg.dataDir)
	}
	s.lock = lock
	return nil
}

// makeUsage makes what keeps the usage of long windows across restarts.
func (s *server) makeUsage() (err error) {
	s.usage, err = usage.New(usage.Config{Dir: s.cfg.dataDir, Prepare: s.lockDataDir}, s.engine, s.registry, s.log)
	return err
}

// loadUsage takes over what an earlier process has used.
func (s *server) loadUsage() error {
	s.usage.Load(context.Background())
	return nil
}
