package filesync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// UnavailableError says that the file cannot be edited: it is bad, or cannot be written.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable tells the API to answer 503.
func (e *UnavailableError) Unavailable() bool { return true }

// Put writes one whole row and returns it as stored, once it is in force. Errors:
// *UnavailableError where the file cannot be edited; then nothing has changed.
func (s *Sync) Put(ctx context.Context, l limits.Limit, _ string) (limits.Limit, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	err := s.edit(ctx, func(doc *document) error {
		l.CreatedAt, l.UpdatedAt, l.Version = now, now, s.id+1
		if old, ok := doc.find(l.Key); ok && !old.CreatedAt.IsZero() {
			l.CreatedAt = old.CreatedAt
		}
		return doc.put(&l)
	})
	if err != nil {
		return limits.Limit{}, fmt.Errorf("writing the limit %s: %w", l.Key, err)
	}
	return l, nil
}

// Delete removes the row of exactly this key and returns once it is no longer in force. Errors:
// limits.ErrNotFound, *UnavailableError as Put.
func (s *Sync) Delete(ctx context.Context, key limits.Key, _ string) error {
	err := s.edit(ctx, func(doc *document) error {
		if !doc.remove(key) {
			return limits.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deleting the limit %s: %w", key, err)
	}
	return nil
}

// edit changes the file as it is at this moment, and puts it in force.
func (s *Sync) edit(ctx context.Context, change func(*document) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := s.readFile()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &UnavailableError{err}
	}
	doc, err := parse(body)
	if err != nil {
		return &UnavailableError{fmt.Errorf("%s is bad and is not edited: %w", s.cfg.Path, err)}
	}
	if err := change(doc); err != nil {
		return err
	}
	body, err = doc.encode()
	if err != nil {
		return &UnavailableError{err}
	}
	if err := atomicfile.Write(s.cfg.Path, body); err != nil {
		return &UnavailableError{err}
	}
	s.adopt(ctx, body, nil)
	return nil
}
