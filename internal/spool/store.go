package spool

import (
	"context"
	"errors"
	"fmt"
)

// Errors of [Log.Store].
var (
	ErrNoRoom     = errors.New("there is no room in memory for it")
	ErrNotWritten = errors.New("it could not be written to the log")
)

// Store takes several frames, all of them or none, and waits until they are written: then they survive
// the end of the process. Errors: ErrNoRoom, where nothing of it is taken; ErrNotWritten, where some or
// all of it could not be written; that of ctx, after which it may yet be written. What is not written is
// not counted as lost, since whoever calls has it still. Without readers it does nothing.
func (l *Log) Store(ctx context.Context, frames []Frame) error {
	if len(l.readers) == 0 || len(frames) == 0 {
		return nil
	}
	stored := make(chan bool, 1)
	if !l.put(stored, frames...) {
		return ErrNoRoom
	}
	notify(l.wake)
	select {
	case ok := <-stored:
		if !ok {
			return ErrNotWritten
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for a write of the log: %w", ctx.Err())
	}
}

// waiter waits for the write of the records of a Store, by their numbers among all that were taken.
type waiter struct {
	from, to int64
	lost     bool
	stored   chan<- bool
}

// tellLocked tells those who wait that the next n records that were taken are written, or not. It returns
// for how many of these nobody waits.
func (l *Log) tellLocked(n int64, written bool) (nobodys int64) {
	from := l.settled
	l.settled += n
	nobodys = n
	for i := range l.waiting {
		w := &l.waiting[i]
		if w.from >= l.settled {
			break
		}
		w.lost = w.lost || !written
		nobodys -= min(w.to, l.settled) - max(w.from, from)
	}
	for len(l.waiting) > 0 && l.waiting[0].to <= l.settled {
		l.waiting[0].stored <- !l.waiting[0].lost
		l.waiting = l.waiting[1:]
	}
	return nobodys
}
