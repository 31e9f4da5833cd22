package spool

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"
)

// syncUntil syncs what was written, at most every Config.SyncEvery, until ctx ends. It is beside the
// writer, which goes on meanwhile: records in memory are what kill -9 takes.
func (l *Log) syncUntil(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-l.dirty:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.cfg.SyncEvery):
		}
		l.syncAll()
	}
}

// syncAll syncs what was written before, and closes the files that are written to no more.
func (l *Log) syncAll() {
	for _, s := range l.takeUnsynced() {
		l.synced(s, l.syncSegment(s))
	}
	l.closeDone()
}

// takeUnsynced returns the segments that are to be synced. They are not closed before synced.
func (l *Log) takeUnsynced() []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*segment
	for _, s := range l.open {
		if s.unsynced && !s.removed {
			s.unsynced, s.syncing = false, true
			all = append(all, s)
		}
	}
	return all
}

// syncSegment makes a segment last, and the first time its name, too.
func (l *Log) syncSegment(s *segment) error {
	err := l.disk.sync(s.file)
	if err == nil && s.fresh {
		err = l.syncDir()
		s.fresh = err != nil
	}
	return err
}

// synced notes the end of a sync. After one that failed the kernel may take pages for clean that never
// got to the disk, so that nothing more goes into that file.
func (l *Log) synced(s *segment, err error) {
	if err != nil {
		l.metrics.syncErrors.Inc()
		l.rarely.warn("a segment of the spool could not be synced; another one is begun", slog.Any("error", err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.syncing = false
	s.unsound = s.unsound || err != nil
}

func (l *Log) syncDir() error {
	d, err := os.Open(l.cfg.Dir)
	if err != nil {
		return err
	}
	return errors.Join(l.disk.sync(d), d.Close())
}
