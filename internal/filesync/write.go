package filesync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// Put writes one whole row and returns it as stored, once it is in force. A row that is there
// already stays as it is, version included. CreatedAt, UpdatedAt and Version of l are not
// looked at. Errors: limits.FieldError for a row out of bounds, *UnavailableError where the file
// cannot be edited; then nothing has changed.
func (s *Sync) Put(ctx context.Context, l limits.Limit, _ string) (limits.Limit, error) {
	l, err := limits.RowOf(&l).Limit() // without what a table adds
	if err == nil {
		err = s.edit(ctx, func(doc *document) error {
			l = s.stamped(l, doc)
			return doc.put(l)
		})
	}
	if err != nil {
		return limits.Limit{}, fmt.Errorf("writing the limit %s: %w", l.Key, err)
	}
	return l, nil
}

// stamped returns l with its times and version: those of the row that is there if it says the
// same, else new ones.
func (s *Sync) stamped(l limits.Limit, doc *document) limits.Limit {
	now := time.Now().UTC().Truncate(time.Microsecond) // as Postgres has it
	next := l
	next.CreatedAt, next.UpdatedAt, next.Version = now, now, max(s.id, doc.newest())+1
	i := doc.find(l.Key)
	if i < 0 {
		return next
	}
	old := doc.rows[i]
	if !old.CreatedAt.IsZero() {
		next.CreatedAt = old.CreatedAt
	}
	l.CreatedAt, l.UpdatedAt, l.Version = old.CreatedAt, old.UpdatedAt, old.Version
	if l == old && old.Version > 0 { // one that was written by hand gets its version now
		return old
	}
	return next
}

// Delete removes the row of exactly this key and returns once it is no longer in force. Errors:
// limits.FieldError, limits.ErrNotFound, *UnavailableError as Put.
func (s *Sync) Delete(ctx context.Context, key limits.Key, _ string) error {
	err := key.Validate()
	if err == nil {
		err = s.edit(ctx, func(doc *document) error { return doc.remove(key) })
	}
	if err != nil {
		return fmt.Errorf("deleting the limit %s: %w", key, err)
	}
	return nil
}

// errRaced says that somebody else wrote the file between our look and our write.
var errRaced = errors.New("the limits file is being changed by somebody else")

// maxRaces is how often an edit begins anew because somebody else was faster.
const maxRaces = 10

// edit changes the file as it is at this moment, and puts it in force.
func (s *Sync) edit(ctx context.Context, change func(*document) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errRaced
	for races := 0; races < maxRaces && errors.Is(err, errRaced); races++ {
		if err := ctx.Err(); err != nil { // whoever asked has gone
			return &UnavailableError{err}
		}
		err = s.editOnce(ctx, change)
	}
	return err
}

// editOnce is edit, or errRaced.
func (s *Sync) editOnce(ctx context.Context, change func(*document) error) error {
	before, err := s.readContent()
	if err != nil {
		return &UnavailableError{err}
	}
	doc, err := s.document(before)
	if err != nil {
		return &UnavailableError{err}
	}
	if err := change(doc); err != nil {
		return err
	}
	if !doc.edited {
		return s.adopt(ctx, doc, before)
	}
	after, err := s.replace(doc, before)
	if err != nil {
		return &UnavailableError{err}
	}
	return s.adopt(ctx, doc, after)
}

// replace writes doc where the file still is as it was before.
func (s *Sync) replace(doc *document, before *content) (*content, error) {
	body, err := doc.encode()
	if err != nil {
		return nil, err
	}
	err = atomicfile.WriteIf(s.cfg.Path, body, func() error {
		if now, err := s.readContent(); err != nil || !now.same(before) {
			return errors.Join(errRaced, err)
		}
		return nil
	})
	return &content{exists: true, hash: sha256.Sum256(body)}, err
}
