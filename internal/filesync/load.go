package filesync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// content is what the file holds at some moment.
type content struct {
	exists bool
	body   []byte
	hash   [sha256.Size]byte
	info   fs.FileInfo // nil where it was not asked for
	at     time.Time   // when info was taken, before the bytes were read
}

// same tells whether two looks at the file found the same.
func (c *content) same(o *content) bool {
	return c.exists == o.exists && c.hash == o.hash
}

func (c *content) withoutBody() *content {
	return &content{exists: c.exists, hash: c.hash, info: c.info, at: c.at}
}

// readContent reads the whole file. A missing file is no error.
func (s *Sync) readContent() (*content, error) {
	c := &content{at: time.Now()}
	info, err := os.Stat(s.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return nil, fmt.Errorf("reading the limits file: %w", err)
	case !info.Mode().IsRegular(): // opening a pipe would wait for a writer
		return nil, fmt.Errorf("reading the limits file %s: is no regular file", s.cfg.Path)
	}
	f, err := os.Open(s.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the limits file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	c.exists, c.info = true, info
	c.body, err = io.ReadAll(io.LimitReader(f, MaxFile+1)) // parse refuses what is longer
	if err != nil {
		return nil, fmt.Errorf("reading the limits file: %w", err)
	}
	c.hash = sha256.Sum256(c.body)
	return c, nil
}

// clockGrain is how long after a write another one may carry the same time of modification.
const clockGrain = 2 * time.Second

// untouched tells by the file's times alone that it is what was read last, so that a large file
// is not read at every poll.
func (s *Sync) untouched() bool {
	if s.seen == nil || s.seen.info == nil {
		return false
	}
	was := s.seen.info
	info, err := os.Stat(s.cfg.Path)
	return err == nil && os.SameFile(was, info) && info.Size() == was.Size() && info.ModTime().Equal(was.ModTime()) &&
		s.seen.at.Sub(was.ModTime()) > clockGrain
}

// check puts the file in force if it has changed.
func (s *Sync) check(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untouched() {
		return
	}
	c, err := s.readContent()
	if err != nil {
		s.seen = nil
		s.reject(ctx, err)
		return
	}
	if s.seen != nil && c.same(s.seen) { // but for its times, which need not be looked at again
		s.seen = c.withoutBody()
		return
	}
	doc, err := s.document(c)
	if err != nil {
		s.seen = c.withoutBody()
		s.reject(ctx, err)
		return
	}
	_ = s.adopt(ctx, doc, c) // an error was noted
}

// document returns what a file says, if it may be put in force.
func (s *Sync) document(c *content) (*document, error) {
	doc, err := parse(c.body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the limits file %s: %w", s.cfg.Path, err)
	case !doc.blank || s.rows == 0:
		return doc, nil
	case !c.exists:
		return nil, fmt.Errorf("the limits file %s is gone: put it back, or one with `limits: []` if there are to be none", s.cfg.Path)
	}
	return nil, fmt.Errorf("the limits file %s says nothing: write `limits: []` if there are to be none", s.cfg.Path)
}

// reject keeps what is in force, and says why.
func (s *Sync) reject(ctx context.Context, fault error) {
	defer s.state.Store(&state{fault}) // last: who waits for Ready finds the rest done
	if was := s.fault(); was != nil && was.Error() == fault.Error() {
		return
	}
	s.loadErrors.Inc()
	s.stale.Set(1)
	s.log.ErrorContext(ctx, "the limits file is not used", slog.Any("error", fault), slog.Int("limits_in_force", s.rows))
}

// adopt makes the rows of doc, which the file held as c, the limits in force.
func (s *Sync) adopt(ctx context.Context, doc *document, c *content) error {
	inForce := s.seen != nil && s.seen.same(c) && s.fault() == nil
	s.seen = c.withoutBody()
	if inForce {
		return nil
	}
	id := max(s.id+1, doc.newest())
	t, err := limits.NewTable(s.current.Load(), doc.rows, limits.Stamp{ID: id, AtNS: s.clock.NowNS(), LoadedAt: time.Now()})
	if err != nil { // of rows that were found good one by one
		err = fmt.Errorf("the limits file %s: %w", s.cfg.Path, err)
		s.reject(ctx, err)
		return &UnavailableError{err}
	}
	s.id, s.rows = id, t.Len()
	s.current.Store(t)
	s.stale.Set(0)
	s.log.InfoContext(ctx, "the limits file is in force", slog.String("file", s.cfg.Path), slog.Int("limits", t.Len()), slog.Int64("snapshot_id", id))
	s.state.Store(&state{})
	return nil
}

// fault is what Ready has to say about the file.
func (s *Sync) fault() error {
	if state := s.state.Load(); state != nil {
		return state.fault
	}
	return nil
}
